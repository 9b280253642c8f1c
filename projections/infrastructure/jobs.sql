-- Jobs: what operators asked for that takes long. A projector process takes a lease; whoever has it works, tells how far it is,
-- and stops as soon as the lease is another's or the job is over.

-- name: add_job
insert into projections.jobs (kind, projection, generation, ledger, account, events_per_second_max, against, actor, reason)
values (
  %(kind)s, %(projection)s, %(generation)s, %(ledger)s, %(account)s, %(events_per_second_max)s, %(against)s, %(actor)s,
  %(reason)s
)
returning id

-- name: job
select
  j.id, j.kind, j.projection, j.generation, j.ledger, j.account, j.events_per_second_max, j.state, j.actor, j.reason,
  j.asked_at, j.began_at, j.ended_at, j.attempts, j.events_done, j.events_total, j.events_per_second,
  j.against, j.has_passed, j.findings, j.error
from projections.jobs j
where j.id = %(id)s

-- name: jobs_of
select
  j.id, j.kind, j.projection, j.generation, j.ledger, j.account, j.events_per_second_max, j.state, j.actor, j.reason,
  j.asked_at, j.began_at, j.ended_at, j.attempts, j.events_done, j.events_total, j.events_per_second,
  j.against, j.has_passed, j.findings, j.error
from projections.jobs j
where j.projection = %(projection)s
order by j.id desc
limit %(limit)s

-- name: job_figures
-- For metrics, by projection: the rebuild that is under way, and whether reconciliation found a difference that still stands.
select
  asked.projection, coalesce(r.events_done, 0), coalesce(r.events_total, 0), coalesce(r.events_per_second, 0),
  exists ( -- a difference stands until a later look at as much of the same generation, or a repair, has passed
    select from projections.jobs j
    join projections.live l on l.projection = j.projection and l.generation = j.generation
    where j.projection = asked.projection and j.kind = 'reconcile' and j.state = 'done' and not j.has_passed
      and not exists (
        select from projections.jobs k
        where k.projection = j.projection and k.generation = j.generation and k.id > j.id and k.state = 'done'
          and k.has_passed and k.account is null
          and (k.kind = 'reconcile' and k.ledger is null or k.kind in ('reconcile', 'repair') and k.ledger = j.ledger)
      )
  )
from unnest(%(projections)s::text[]) as asked (projection)
left join projections.jobs r on r.projection = asked.projection and r.kind = 'rebuild' and r.state = 'running'

-- name: schedule_reconciliations
-- Of every live generation of this log that was not reconciled for so long, and is not about to be.
insert into projections.jobs (kind, projection, generation, actor, reason)
select 'reconcile', l.projection, l.generation, 'daybook', 'scheduled'
from projections.live l
join projections.generations g on g.projection = l.projection and g.generation = l.generation
join daybook.incarnation i on i.incarnation = g.incarnation
where l.projection = any(%(projections)s) and g.created_at < clock_timestamp() - %(every)s
  and not exists (
    select from projections.jobs j
    where j.projection = l.projection and j.kind = 'reconcile' and j.asked_at > clock_timestamp() - %(every)s
  )

-- name: hold_schedule
select pg_advisory_xact_lock(%(key)s)

-- name: claim_job
-- The oldest that nobody works on: new, or left behind by a process that fell silent.
update projections.jobs
set state = 'running', owner = %(owner)s, lease_until = clock_timestamp() + %(lease)s,
  began_at = coalesce(began_at, clock_timestamp()), attempts = attempts + 1
where id = (
  select j.id from projections.jobs j
  where j.projection = any(%(projections)s)
    and (j.state = 'waiting' or (j.state = 'running' and j.lease_until < clock_timestamp()))
  order by j.id
  limit 1
  for update skip locked
)
returning id, attempts

-- name: keep_job
-- No row: the job was cancelled, or another process works on it.
update projections.jobs
set lease_until = clock_timestamp() + %(lease)s,
  attempts = case when %(events_done)s > events_done then 1 else attempts end,
  events_done = %(events_done)s, events_total = %(events_total)s, events_per_second = %(events_per_second)s
where id = %(id)s and owner = %(owner)s and state = 'running'

-- name: end_job
update projections.jobs
set state = %(state)s, ended_at = clock_timestamp(), lease_until = '-infinity', error = %(error)s,
  has_passed = %(has_passed)s, findings = %(findings)s
where id = %(id)s and owner = %(owner)s and state = 'running'

-- name: leave_job
-- Somebody else may take it at once.
update projections.jobs set state = 'waiting', lease_until = '-infinity', attempts = greatest(attempts - 1, 0)
where id = %(id)s and owner = %(owner)s and state = 'running'

-- name: cancel_jobs
update projections.jobs set state = 'cancelled', ended_at = clock_timestamp()
where projection = %(projection)s and generation = %(generation)s and state in ('waiting', 'running')
  and kind in ('rebuild', 'verify')

-- name: running_rebuild
select j.id from projections.jobs j
where j.projection = %(projection)s and j.kind = 'rebuild' and j.state in ('waiting', 'running')

-- name: is_verified
-- The last look at this generation beside the one that is live now.
select coalesce((
  select j.has_passed from projections.jobs j
  where j.projection = %(projection)s and j.generation = %(generation)s and j.kind = 'verify' and j.state = 'done'
    and j.against = %(against)s
  order by j.id desc limit 1
), false)
