-- What the monitor asks of Postgres.

-- name: due
select clock_timestamp() from monitor.last_look
where is_only and taken_at <= clock_timestamp() - make_interval(secs => %(seconds)s)

-- name: take_turn
-- Who gets it looks; the others have nothing to do. It ends with the transaction, so a monitor that stands still holds nobody up.
select pg_try_advisory_xact_lock(%(key)s)

-- name: was_kept
select exists (select from monitor.last_look where taken_at = %(taken_at)s)
  or exists (select from monitor.findings where %(taken_at)s in (first_seen_at, raised_at, ended_at))

-- name: last_look
select look from monitor.last_look where is_only

-- name: keep_look
update monitor.last_look set taken_at = %(taken_at)s, look = %(look)s where is_only

-- name: sessions
-- pg_blocking_pids takes the whole lock table for a moment: asked only about those who wait.
with waits as materialized (
  select distinct on (l.pid) l.pid, l.mode, l.waitstart,
    case when l.database = (select oid from pg_database where datname = current_database())
      then l.relation::regclass::text end as relation, l.locktype
  from pg_locks l where not l.granted order by l.pid
)
select a.pid, coalesce(a.usename, ''), coalesce(a.application_name, ''), coalesce(a.datname, ''),
  a.backend_type = 'client backend', coalesce(a.state, ''), a.xact_start,
  (1000 * extract(epoch from clock_timestamp() - a.xact_start))::bigint,
  (1000 * extract(epoch from clock_timestamp() - coalesce(a.state_change, a.xact_start)))::bigint,
  (1000 * extract(epoch from clock_timestamp() - coalesce(w.waitstart, clock_timestamp())))::bigint,
  w.mode || ' of ' || w.locktype || coalesce(' in ' || w.relation, ''),
  case when w.pid is null then '{}' else pg_blocking_pids(a.pid) end,
  left(a.query, %(query_length_max)s)
from pg_stat_activity a left join waits w on w.pid = a.pid
where a.xact_start is not null and a.pid <> pg_backend_pid()
union all
-- No session has them, and pg_blocking_pids calls all of them 0.
select 0, coalesce(string_agg(distinct p.owner::text, ', '), ''), 'prepared transaction ' || string_agg(p.gid, ', ' order by p.prepared),
  coalesce(string_agg(distinct p.database::text, ', '), ''), false, 'prepared', min(p.prepared),
  (1000 * extract(epoch from clock_timestamp() - min(p.prepared)))::bigint,
  (1000 * extract(epoch from clock_timestamp() - min(p.prepared)))::bigint, 0, null, '{}', ''
from pg_prepared_xacts p having count(*) > 0
order by 7 limit %(sessions_max)s

-- name: deadlocks
select d.datname, d.deadlocks from pg_stat_database d where d.datname is not null and d.datname not like 'template%%'

-- name: relay_lease
select l.owner, (1000 * extract(epoch from l.expires_at - clock_timestamp()))::bigint
from projections.relay_lease l where l.is_only and isfinite(l.expires_at)

-- name: relay_lag
with behind as materialized (
  select l.ledger, l.position as head, coalesce(p.position, 0) as position
  from daybook.ledgers l
  left join projections.relay_positions p
    on p.ledger = l.ledger and p.incarnation = (select i.incarnation from daybook.incarnation i where i.is_only)
  where l.position > coalesce(p.position, 0)
)
select count(*), coalesce(sum(b.head - b.position), 0)::bigint,
  (select w.ledger from behind w order by w.head - w.position desc, w.ledger limit 1),
  (select (1000 * extract(epoch from clock_timestamp() - min(e.recorded_at)))::bigint
   from (select * from behind limit %(ledgers_max)s) o
   join daybook.events e on e.ledger = o.ledger and e.position = o.position + 1)
from behind b

-- name: generations
select g.projection, g.generation, l.generation is not null
from projections.generations g
join daybook.incarnation i on i.is_only and i.incarnation = g.incarnation
left join projections.live l on l.projection = g.projection and l.generation = g.generation
where l.generation is not null or g.state = 'building'
order by g.projection, g.generation

-- name: projection_lag
with behind as materialized (
  select l.ledger, l.position as head, coalesce(p.position, 0) as position
  from daybook.ledgers l
  left join projections.positions p
    on p.projection = %(projection)s and p.generation = %(generation)s and p.ledger = l.ledger
  where l.position > coalesce(p.position, 0)
)
select count(*), coalesce(sum(b.head - b.position), 0)::bigint,
  (select w.ledger from behind w order by w.head - w.position desc, w.ledger limit 1),
  (select (1000 * extract(epoch from clock_timestamp() - min(e.recorded_at)))::bigint
   from (select * from behind limit %(ledgers_max)s) o
   join daybook.events e on e.ledger = o.ledger and e.position = o.position + 1)
from behind b

-- name: standing
select w.projection, w.ledger, w.state, w.position, w.error_class,
  (1000 * extract(epoch from clock_timestamp() - w.since))::bigint
from projections.waiting w
join projections.live l on l.projection = w.projection and l.generation = w.generation
order by w.state, w.since, w.ledger limit %(ledgers_max)s

-- name: open_findings
select id, kind, subject, first_seen_at, last_seen_at, looks, missed, raised_at, ended_at, action, detail
from monitor.findings where ended_at is null order by id

-- name: newest_findings
select id, kind, subject, first_seen_at, last_seen_at, looks, missed, raised_at, ended_at, action, detail
from monitor.findings where %(before)s::bigint is null or id < %(before)s order by id desc limit %(limit)s

-- name: add_finding
insert into monitor.findings (kind, subject, first_seen_at, last_seen_at, looks, missed, raised_at, ended_at, action, detail)
values (%(kind)s, %(subject)s, %(first_seen_at)s, %(last_seen_at)s, %(looks)s, %(missed)s, %(raised_at)s, %(ended_at)s,
  %(action)s, %(detail)s)

-- name: change_finding
update monitor.findings
set last_seen_at = %(last_seen_at)s, looks = %(looks)s, missed = %(missed)s, raised_at = %(raised_at)s,
  ended_at = %(ended_at)s, action = %(action)s, detail = %(detail)s
where id = %(id)s

-- name: trim_findings
delete from monitor.findings
where ended_at is not null and (
  ended_at < clock_timestamp() - make_interval(days => %(days_max)s)
  or id <= (select f.id from monitor.findings f order by f.id desc offset %(rows_max)s limit 1)
)

-- name: cancel
-- Only if that pid is still in the transaction that was looked at: pids are used again.
select pg_cancel_backend(a.pid) from pg_stat_activity a where a.pid = %(pid)s and a.xact_start = %(began_at)s

-- name: terminate
select pg_terminate_backend(a.pid) from pg_stat_activity a where a.pid = %(pid)s and a.xact_start = %(began_at)s

-- name: may_signal
select pg_has_role('pg_signal_backend', 'usage')
