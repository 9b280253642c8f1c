-- What operators see and do of ledgers that stand still. Sessions are those of `Database`.

-- name: projection_exists
select from projections.generations g where g.projection = %(projection)s limit 1

-- name: ledger_exists
select from daybook.ledgers l where l.ledger = %(ledger)s

-- name: standing_ledgers
select w.projection, w.generation, w.ledger, w.position, w.state, w.event_type, w.error_class, w.error, w.trace_id,
  w.attempts, w.since, w.last_attempt_at
from projections.waiting w
join projections.generations g on g.projection = w.projection and g.generation = w.generation and g.state <> 'dropped'
where (%(projection)s::text is null or w.projection = %(projection)s)
  and (%(ledger)s::text is null or w.ledger = %(ledger)s)
  and (%(patterns)s::text[] is null or w.ledger ~ any(%(patterns)s))
order by w.state, w.since, w.projection, w.generation, w.ledger
limit %(ledgers_max)s

-- name: letters_of
select d.generation, d.version, d.position, d.event_type, d.error_class, d.error, d.trace_id,
  d.attempts, d.first_attempt_at, d.last_attempt_at, d.published_at, d.resolved_at, d.resolution
from projections.dead_letters d
where d.projection = %(projection)s and d.ledger = %(ledger)s
order by d.last_attempt_at desc, d.generation desc
limit %(ledgers_max)s

-- name: skips_of
select s.version, s.position, s.reason, s.actor, s.at, s.lifted_at
from projections.skips s
where s.projection = %(projection)s and s.ledger = %(ledger)s
order by s.at desc, s.position desc
limit %(ledgers_max)s

-- name: hold_positions
-- In every generation that is fed or built: a worker that is about to move the ledger comes before or after, never between. A ledger
-- that a generation has nothing of yet gets its row.
with fed as (
  select g.projection, g.generation, g.incarnation from projections.generations g
  join daybook.incarnation i on i.incarnation = g.incarnation
  where g.projection = %(projection)s and g.state <> 'dropped'
)
insert into projections.positions as p (projection, generation, ledger, position, incarnation)
select fed.projection, fed.generation, %(ledger)s, 0, fed.incarnation from fed order by fed.generation
on conflict (projection, generation, ledger) do update set position = p.position
returning p.generation, p.position

-- name: park
insert into projections.waiting as w (projection, generation, ledger, position, state, error_class, error)
select %(projection)s, held.generation, %(ledger)s, held.position + 1, 'parked', 'Operator', 'parked by an operator'
from unnest(%(generations)s::integer[], %(positions)s::bigint[]) as held (generation, position)
on conflict (projection, generation, ledger) do update set state = 'parked'

-- name: retry
update projections.waiting w
set state = 'waiting', asked_at = clock_timestamp()
where w.projection = %(projection)s and (%(ledger)s::text is null or w.ledger = %(ledger)s)
  and (%(patterns)s::text[] is null or w.ledger ~ any(%(patterns)s))
returning w.projection, w.generation, w.ledger, w.position, w.state, w.event_type, w.error_class, w.error, w.trace_id,
  w.attempts, w.since, w.last_attempt_at

-- name: parked_versions
-- The versions whose generations have the ledger parked at this event. Locked, so that nobody else decides meanwhile.
select g.version
from projections.waiting w
join projections.generations g on g.projection = w.projection and g.generation = w.generation and g.state <> 'dropped'
where w.projection = %(projection)s and w.ledger = %(ledger)s and w.position = %(position)s and w.state = 'parked'
order by w.generation
for update of w

-- name: skip
insert into projections.skips (projection, version, ledger, position, reason, actor)
select %(projection)s, left_out.version, %(ledger)s, %(position)s, %(reason)s, %(actor)s
from unnest(%(versions)s::integer[]) as left_out (version)
on conflict (projection, version, ledger, position) do update set
  reason = excluded.reason, actor = excluded.actor, at = clock_timestamp(), lifted_at = null

-- name: retry_skipped
update projections.waiting w
set state = 'waiting', asked_at = clock_timestamp()
where w.projection = %(projection)s and w.ledger = %(ledger)s and w.position = %(position)s and w.state = 'parked'
returning w.projection, w.generation, w.ledger, w.position, w.state, w.event_type, w.error_class, w.error, w.trace_id,
  w.attempts, w.since, w.last_attempt_at

-- name: note_action
-- The trail: in the transaction of what was done.
insert into projections.operator_actions (actor, action, projection, ledger, reason, details)
values (%(actor)s, %(action)s, %(projection)s, %(ledger)s, %(reason)s, %(details)s::jsonb)

-- name: tell_control
select pg_notify('daybook_control', %(projection)s)
