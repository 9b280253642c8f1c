-- The statements that auditors, streams and exports read the log with. Stamp and columns are those of events.sql.
-- Each look is bounded three ways, so that none takes long, however sparse its filter or long its events: by rows (`limit`), by
-- rows looked at (`scan_max`) and by bytes (`bytes_max`, which the last row may pass). `scanned` is the position that was
-- looked at last where there may be more behind it, and 0 where the range was looked through.

-- name: log_wanted
known.position <= stamp.at and known.position between %(from_position)s::bigint and %(to_position)s::bigint
      and known.position {before} %(after_position)s::bigint

-- name: log_edge
-- Where this look ends, so that it is a bound of the index scan that follows.
edge as materialized (
  select
    looked.scanned,
    greatest(%(from_position)s::bigint, case when '{direction}' = 'desc' then looked.scanned end) as low,
    least(
      %(to_position)s::bigint, stamp.at, case when '{direction}' = 'asc' and looked.scanned > 0 then looked.scanned end
    ) as high
  from stamp cross join looked
  where stamp.at is not null
)

-- name: log_filter
(%(types)s::text[] is null or event.type = any(%(types)s))
      and (%(actor)s::text is null or event.metadata::json ->> 'actor' = %(actor)s)
      and (%(correlation_id)s::text is null or event.metadata::json ->> 'correlation_id' = %(correlation_id)s)

-- name: log_columns
event.position, event.type, event.recorded_at, event.metadata, event.data,
      octet_length(event.metadata) + octet_length(event.data) as bytes

-- name: log_bounded
select {stamped}, edge.scanned, found.position, found.type, found.recorded_at, found.metadata, found.data
from stamp
left join edge on true
left join (
  select
    picked.*,
    sum(picked.bytes) over (order by picked.position {direction} rows between unbounded preceding and current row) as bytes_so_far
  from picked
) found on found.bytes_so_far - found.bytes < %(bytes_max)s::bigint
order by found.position {direction}

-- name: log_{order}
with {log_stamp}, looked as materialized (
  select coalesce((
    select known.position from daybook.events known
    where known.ledger = %(ledger)s and {log_wanted}
    order by known.position {direction} offset %(scan_max)s::bigint - 1 limit 1
  ), 0) as scanned
  from stamp
), {log_edge}, picked as materialized (
  select picked.*
  from edge
  cross join lateral (
    select {log_columns}
    from daybook.events event
    where event.ledger = %(ledger)s and event.position between edge.low and edge.high
      and event.position {before} %(after_position)s::bigint and {log_filter}
    order by event.position {direction}
    limit %(limit)s::bigint
  ) picked
)
{log_bounded}

-- name: tagged_log_{order}
with {log_stamp}, looked as materialized (
  select coalesce((
    select known.position from daybook.event_tags known
    where known.ledger = %(ledger)s and known.tag = %(tag)s and {log_wanted}
    order by known.position {direction} offset %(scan_max)s::bigint - 1 limit 1
  ), 0) as scanned
  from stamp
), {log_edge}, picked as materialized (
  select picked.*
  from edge
  cross join lateral (
    select {log_columns}
    from daybook.event_tags tagged
    cross join lateral (
      select * from daybook.events known
      where known.ledger = tagged.ledger and known.position = tagged.position limit 1
    ) event
    where tagged.ledger = %(ledger)s and tagged.tag = %(tag)s and tagged.position between edge.low and edge.high
      and tagged.position {before} %(after_position)s::bigint
      and (
        %(other_tag)s::text is null
        or (
          select other.position from daybook.event_tags other
          where other.ledger = %(ledger)s and other.tag = %(other_tag)s and other.position = tagged.position
        ) is not null
      )
      and {log_filter}
    order by tagged.position {direction}
    limit %(limit)s::bigint
  ) picked
)
{log_bounded}

-- name: births
-- The first event that bears each of these tags.
with {log_stamp}
select {stamped}, found.*
from stamp
left join lateral (
  select event.position, event.type, event.recorded_at, event.metadata, event.data
  from unnest(%(tags)s::text[]) as asked(tag)
  cross join lateral (
    select tagged.position from daybook.event_tags tagged
    where tagged.ledger = %(ledger)s and tagged.tag = asked.tag order by tagged.position limit 1
  ) first
  cross join lateral (
    select * from daybook.events known where known.ledger = %(ledger)s and known.position = first.position limit 1
  ) event
) found on true
