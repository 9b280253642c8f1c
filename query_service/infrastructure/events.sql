-- The statements of the read side on the event log itself: the same first columns as in books.sql, but as of the log's head.

-- name: log_stamp
stamp as materialized (
  select
    null::text as schema_name, log.incarnation, log.head, coalesce(log.head, 0) as reached,
    case when log.head >= %(wanted)s::bigint then coalesce(%(at)s::bigint, log.head) end as at,
    null::text as state, null::timestamptz as since, null::bigint as stuck_position
  from (
    select
      known.incarnation,
      (select ledger.position from daybook.ledgers ledger where ledger.ledger = %(ledger)s) as head
    from daybook.incarnation known where known.is_only limit 1
  ) log
)

-- name: events_{order}
with {log_stamp}
select {stamped}, found.*
from stamp
left join lateral (
  select event.position, event.type, event.recorded_at, event.metadata, event.data
  from daybook.events event
  where event.ledger = %(ledger)s and event.position <= stamp.at
    and event.position between %(from_position)s::bigint and %(to_position)s::bigint
    and event.position {before} %(after_position)s::bigint
    and (%(type)s::text is null or event.type = %(type)s)
  order by event.position {direction}
  limit %(limit)s::bigint
) found on true
order by found.position {direction}

-- name: tagged_events_{order}
with {log_stamp}
select {stamped}, found.*
from stamp
left join lateral (
  select event.position, event.type, event.recorded_at, event.metadata, event.data
  from daybook.event_tags tagged
  cross join lateral (
    select * from daybook.events known where known.ledger = tagged.ledger and known.position = tagged.position limit 1
  ) event
  where tagged.ledger = %(ledger)s and tagged.tag = %(tag)s and tagged.position <= stamp.at
    and tagged.position between %(from_position)s::bigint and %(to_position)s::bigint
    and tagged.position {before} %(after_position)s::bigint
    and (%(type)s::text is null or event.type = %(type)s)
  order by tagged.position {direction}
  limit %(limit)s::bigint
) found on true
order by found.position {direction}
