-- The statements of the read side on the event log itself: the same first columns as in books.sql, but as of the log's head.

-- name: log_stamp
stamp as materialized (
  select seen.*, (
      select dated.recorded_at from daybook.events dated where dated.ledger = %(ledger)s and dated.position = seen.at
    ) as as_of_recorded_at
  from (
    select
      null::text as schema_name, null::text as generation, log.incarnation, log.head, coalesce(log.head, 0) as reached,
      case when log.head >= asked.needed then coalesce(asked.named, log.head) end as at,
      null::text as state, null::timestamptz as since, null::bigint as stuck_position, {asked_columns}
    from (select) nothing
    {log_asked}
  ) seen
)

-- name: log_stamp_alone
with {log_stamp}
select {stamped}, null as nothing
from stamp
