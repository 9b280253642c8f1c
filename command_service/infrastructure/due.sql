-- What is due, asked by the clock of the live generation of `books`.

-- name: live
-- Only a generation of this log: after a restore the old one speaks of transactions that may never have been.
select g.schema_name from projections.live l
join projections.generations g on g.projection = l.projection and g.generation = l.generation
join daybook.incarnation i on i.is_only and i.incarnation = g.incarnation
where l.projection = 'books'

-- name: due
-- A walk along the index unsettled_by_due_time, from where the last page ended.
select u.due_at, u.ledger, u.transaction_id, u.status from {schema}.unsettled u
where u.until_position is null and u.due_at is not null and u.due_at <= %(now)s
  and (u.due_at, u.ledger, u.transaction_id) > (%(due_at)s::timestamptz, %(ledger)s, %(transaction)s)
order by u.due_at, u.ledger, u.transaction_id limit %(limit)s
