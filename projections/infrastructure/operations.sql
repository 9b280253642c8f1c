-- What the operators' API asks and changes. Sessions are those of `Database`.

-- name: projections_known
-- Those that ever had a generation; the code may know more.
select distinct g.projection from projections.generations g order by 1

-- name: generations_of
select g.generation, g.version, g.schema_name, g.state, g.incarnation::text = i.incarnation::text, g.is_automatic, g.created_at
from projections.generations g, daybook.incarnation i
where g.projection = %(projection)s
order by g.generation

-- name: pause_of
select p.since, p.actor, p.reason from projections.paused p where p.projection = %(projection)s

-- name: all_wanted
-- By projection: whether it is paused, and its generations as a text that differs with each change.
select coalesce(g.projection, p.projection), p.projection is not null, coalesce(g.generations, '')
from (
  select g.projection, string_agg(g.generation || g.state, ' ' order by g.generation) as generations
  from projections.generations g group by g.projection
) as g
full join projections.paused p on p.projection = g.projection

-- name: pause
insert into projections.paused (projection, actor, reason) values (%(projection)s, %(actor)s, %(reason)s)
on conflict (projection) do nothing

-- name: resume
delete from projections.paused where projection = %(projection)s

-- name: actions
-- The newest first. Whoever sees some ledgers only sees what was done to these, and to projections as a whole.
select a.id, a.at, a.actor, a.action, a.projection, a.ledger, a.reason, a.details
from projections.operator_actions a
where (%(projection)s::text is null or a.projection = %(projection)s)
  and (%(ledger)s::text is null or a.ledger = %(ledger)s)
  and (%(patterns)s::text[] is null or a.ledger is null or a.ledger ~ any(%(patterns)s))
  and (%(before)s::bigint is null or a.id < %(before)s)
order by a.id desc
limit %(limit)s

-- name: tell_control
select pg_notify('daybook_control', %(projection)s)

-- name: progress
-- Of one generation: ledgers, events in the log, events applied, behind of the ledger most behind, and the age of the oldest event
-- that is not applied (of the thousand ledgers most behind, which tell enough).
with places as materialized (
  select l.ledger, l.position as head, coalesce(p.position, 0) as position
  from daybook.ledgers l
  left join projections.positions p
    on p.projection = %(projection)s and p.generation = %(generation)s and p.ledger = l.ledger
)
select
  count(*), coalesce(sum(head), 0)::bigint, coalesce(sum(position), 0)::bigint, coalesce(max(head - position), 0)::bigint,
  coalesce((
    select max(extract(epoch from clock_timestamp() - e.recorded_at))
    from (select * from places where head > position order by head - position desc limit 1000) as behind
    join daybook.events e on e.ledger = behind.ledger and e.position = behind.position + 1
  ), 0)::double precision
from places

-- name: standing_of
-- How many ledgers wait, how many are parked, and the newest reason of all.
select count(*) filter (where w.state = 'waiting'), count(*) filter (where w.state = 'parked'),
  (array_agg(btrim(w.error_class || ' ' || w.error) order by w.last_attempt_at desc))[1]
from projections.waiting w
where w.projection = %(projection)s and w.generation = %(generation)s

-- name: ledgers_of
-- Ledgers of one generation by what needs to be looked at first: those that stand still, then those most behind.
select
  found.ledger, found.head, found.position, found.head - found.position,
  (select extract(epoch from clock_timestamp() - e.recorded_at)::double precision
   from daybook.events e where e.ledger = found.ledger and e.position = found.position + 1),
  found.state, found.error_class, found.error, found.attempts, found.since, found.last_attempt_at
from (
  select
    l.ledger, l.position as head, coalesce(p.position, 0) as position,
    w.state, w.error_class, w.error, w.attempts, w.since, w.last_attempt_at
  from daybook.ledgers l
  left join projections.positions p
    on p.projection = %(projection)s and p.generation = %(generation)s and p.ledger = l.ledger
  left join projections.waiting w
    on w.projection = %(projection)s and w.generation = %(generation)s and w.ledger = l.ledger
  where (%(ledger)s::text is null or l.ledger = %(ledger)s)
    and (%(patterns)s::text[] is null or l.ledger ~ any(%(patterns)s))
  order by w.state is null, l.position - coalesce(p.position, 0) desc, l.ledger
  limit %(limit)s
) as found

-- name: ledger_exists
select from daybook.ledgers l where l.ledger = %(ledger)s

-- name: is_tagged
select from daybook.event_tags t where t.ledger = %(ledger)s and t.tag = %(tag)s limit 1

-- name: relay_lease
select l.owner, l.epoch, nullif(l.expires_at, '-infinity'), l.expires_at > clock_timestamp() from projections.relay_lease l where l.is_only

-- name: relay_summary
-- The same figures as of a generation, of what is published.
with places as materialized (
  select l.ledger, l.position as head, coalesce(p.position, 0) as position
  from daybook.ledgers l left join projections.relay_positions p on p.ledger = l.ledger
)
select
  count(*), coalesce(sum(head), 0)::bigint, coalesce(sum(position), 0)::bigint, coalesce(max(head - position), 0)::bigint,
  coalesce((
    select max(extract(epoch from clock_timestamp() - e.recorded_at))
    from (select * from places where head > position order by head - position desc limit 1000) as behind
    join daybook.events e on e.ledger = behind.ledger and e.position = behind.position + 1
  ), 0)::double precision
from places

-- name: relay_ledgers
select
  found.ledger, found.head, found.position, found.head - found.position,
  (select extract(epoch from clock_timestamp() - e.recorded_at)::double precision
   from daybook.events e where e.ledger = found.ledger and e.position = found.position + 1)
from (
  select l.ledger, l.position as head, coalesce(p.position, 0) as position
  from daybook.ledgers l
  left join projections.relay_positions p on p.ledger = l.ledger
  where (%(ledger)s::text is null or l.ledger = %(ledger)s)
    and (%(patterns)s::text[] is null or l.ledger ~ any(%(patterns)s))
  order by l.position - coalesce(p.position, 0) desc, l.ledger
  limit %(limit)s
) as found
