-- Reading the log, for everybody but its writers. Named parameters; event rows are position, type, data, metadata, recorded_at.

-- name: incarnation
select i.incarnation from daybook.incarnation i where i.is_only

-- name: heads
-- Every ledger in byte order: ledger, position, recorded_at.
select l.ledger, l.position, l.recorded_at from daybook.ledgers l order by l.ledger

-- name: head
select l.position, l.recorded_at from daybook.ledgers l where l.ledger = %(ledger)s

-- name: events_after
select e.position, e.type, e.data, e.metadata, e.recorded_at
from daybook.events e
where e.ledger = %(ledger)s and e.position > %(after)s
order by e.position limit %(events_max)s

-- name: tagged_events_after
-- Each event by its key: a plain join may read the whole ledger once the statistics say that this is cheaper.
select e.position, e.type, e.data, e.metadata, e.recorded_at
from (
  select t.position from daybook.event_tags t
  where t.ledger = %(ledger)s and t.tag = %(tag)s and t.position > %(after)s
  order by t.position limit %(events_max)s
) as t
cross join lateral (
  select e.* from daybook.events e where e.ledger = %(ledger)s and e.position = t.position limit 1
) as e
order by t.position

-- name: event_at
select e.position, e.type, e.data, e.metadata, e.recorded_at
from daybook.events e
where e.ledger = %(ledger)s and e.position = %(position)s

-- name: position_as_of
-- The last position recorded at or before a time; 0 where there was none yet, null where there is no such ledger.
select daybook.position_as_of(%(ledger)s, %(at)s)

