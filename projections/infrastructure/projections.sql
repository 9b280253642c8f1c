-- What relay and projector ask of the log and of their control tables. Sessions run with the reader's SESSION_OPTIONS.

-- name: events_after_each
-- Events after each ledger's position, ledger by ledger, up to a number of events and bytes; at least one where there is any.
select found.ledger, found.position, found.type, found.data, found.metadata, found.recorded_at
from (
  select
    asked.ledger, e.position, e.type, e.data, e.metadata, e.recorded_at,
    sum(octet_length(e.data) + octet_length(e.metadata)) over (
      order by asked.ordinal, e.position rows between unbounded preceding and 1 preceding
    ) as bytes_before
  from unnest($1::text[], $2::bigint[]) with ordinality as asked (ledger, after, ordinal)
  cross join lateral (
    select e.position, e.type, e.data, e.metadata, e.recorded_at
    from daybook.events e
    where e.ledger = asked.ledger and e.position > asked.after
    order by e.position limit $3::bigint
  ) as e
  order by asked.ordinal, e.position
  limit $4::bigint
) as found
where coalesce(found.bytes_before, 0) < $5::bigint

-- name: incarnation
select i.incarnation::text from daybook.incarnation i where i.is_only

-- name: live_generation
select g.projection, g.generation, g.version, g.schema_name, g.state, g.incarnation::text
from projections.live l
join projections.generations g on g.projection = l.projection and g.generation = l.generation
where l.projection = %(projection)s

-- name: newest_generation
-- The highest number there ever was.
select coalesce(max(g.generation), 0) from projections.generations g where g.projection = %(projection)s

-- name: own_generation
-- The one that this version of the code follows: of the log's incarnation where there is one; the live one, else one that was live,
-- else the newest that takes over by itself.
select g.projection, g.generation, g.version, g.schema_name, g.state, g.incarnation::text
from projections.generations g, daybook.incarnation i
where g.projection = %(projection)s and g.version = %(version)s and i.is_only
  and (g.state in ('live', 'former') or (g.state in ('building', 'built') and g.is_automatic))
order by g.incarnation = i.incarnation desc, g.state = 'live' desc, g.state = 'former' desc, g.generation desc
limit 1

-- name: generations_beside
-- Those of this version and the log's incarnation that are whole, but the one that is followed: they are fed from the log.
select g.projection, g.generation, g.version, g.schema_name, g.state, g.incarnation::text
from projections.generations g
join daybook.incarnation i on i.incarnation = g.incarnation
where g.projection = %(projection)s and g.version = %(version)s and g.state in ('built', 'live', 'former')
  and g.generation <> %(generation)s
order by g.generation

-- name: generation
select g.projection, g.generation, g.version, g.schema_name, g.state, g.incarnation::text
from projections.generations g
where g.projection = %(projection)s and g.generation = %(generation)s and g.state <> 'dropped'

-- name: previous_generation
select g.projection, g.generation, g.version, g.schema_name, g.state, g.incarnation::text
from projections.live l
join projections.generations g on g.projection = l.projection and g.generation = l.previous
where l.projection = %(projection)s and g.state <> 'dropped'

-- name: built_generation
-- The newest that waits to be taken over.
select g.projection, g.generation, g.version, g.schema_name, g.state, g.incarnation::text
from projections.generations g
where g.projection = %(projection)s and g.state = 'built'
order by g.generation desc limit 1

-- name: add_generation
insert into projections.generations (projection, generation, version, schema_name, state, incarnation, is_automatic)
values (%(projection)s, %(generation)s, %(version)s, %(schema_name)s, %(state)s, %(incarnation)s::uuid, %(is_automatic)s)

-- name: set_state
update projections.generations set state = %(state)s where projection = %(projection)s and generation = %(generation)s

-- name: finish_building
update projections.generations set state = %(state)s
where projection = %(projection)s and generation = %(generation)s and state = 'building'

-- name: hold_keys
-- The first key: one more than those of the generations' own locks.
select pg_advisory_xact_lock(1651470189, hashtext(%(schema)s))

-- name: has_keys
select exists (
  select from pg_constraint c
  where c.connamespace = to_regnamespace(quote_ident(%(schema)s)) and c.contype = 'p'
)

-- name: note_repair
update projections.positions set repairs = repairs + 1
where projection = %(projection)s and generation = %(generation)s and ledger = %(ledger)s

-- name: hold_position
select p.position from projections.positions p
where p.projection = %(projection)s and p.generation = %(generation)s and p.ledger = %(ledger)s
for update

-- name: lift_skips
-- The ledger was folded anew without leaving anything out.
with lifted as (
  update projections.skips set lifted_at = clock_timestamp()
  where projection = %(projection)s and version = %(version)s and ledger = %(ledger)s and lifted_at is null
)
delete from projections.skipped
where projection = %(projection)s and generation = %(generation)s and ledger = %(ledger)s

-- name: forget_generation
with positions as (
  delete from projections.positions where projection = %(projection)s and generation = %(generation)s
), waiting as (
  delete from projections.waiting where projection = %(projection)s and generation = %(generation)s
), letters as (
  delete from projections.dead_letters where projection = %(projection)s and generation = %(generation)s
)
delete from projections.skipped where projection = %(projection)s and generation = %(generation)s

-- name: make_live
insert into projections.live (projection, generation) values (%(projection)s, %(generation)s)
on conflict (projection) do update set previous = live.generation, generation = excluded.generation

-- name: hold_live
-- While this transaction lasts, nobody moves the live generation on.
select from projections.positions p
where p.projection = %(projection)s
  and p.generation = (select l.generation from projections.live l where l.projection = %(projection)s)
order by p.ledger
for update of p

-- name: set_states
update projections.generations
set state = case when generation = %(generation)s then 'live' else 'former' end
where projection = %(projection)s and (generation = %(generation)s or state = 'live')

-- name: is_behind_live
-- Of the same incarnation only: what the live generation holds of another log is no measure.
select exists (
  select
  from projections.live l
  join projections.positions old on old.projection = l.projection and old.generation = l.generation
  join daybook.incarnation i on i.incarnation = old.incarnation
  left join projections.positions new
    on new.projection = old.projection and new.generation = %(generation)s and new.ledger = old.ledger
  where l.projection = %(projection)s and coalesce(new.position, 0) < old.position
)

-- name: positions
select p.ledger, p.position, p.incarnation::text, p.repairs
from projections.positions p
where p.projection = %(projection)s and p.generation = %(generation)s
  and (%(ledgers)s::text[] is null or p.ledger = any(%(ledgers)s))

-- What every round does goes over the wire: parameters have numbers, and come in the binary format.

-- name: begin_positions
insert into projections.positions (projection, generation, ledger, position, incarnation)
select $1::text, $2::integer, new.ledger, 0, $3::uuid
from unnest($4::text[]) as new (ledger)
order by new.ledger
on conflict do nothing

-- name: lock_positions
-- In ledger order, so that two writers of the same ledgers queue instead of deadlocking. Also those that are to be parked.
select p.ledger, p.position, p.incarnation = i.incarnation, p.repairs
from projections.positions p, daybook.incarnation i
where p.projection = $1::text and p.generation = $2::integer and p.ledger = any($4::text[]) and i.incarnation = $3::uuid
order by p.ledger
for update of p

-- name: move_positions
-- A row of each that moved: whether it stood still at a position that it has passed now.
update projections.positions p
set position = moved.position, recorded_at = moved.recorded_at
from unnest($4::text[], $5::bigint[], $6::bigint[], $7::timestamptz[]) as moved (ledger, previous, position, recorded_at)
where p.projection = $1::text and p.generation = $2::integer and p.ledger = moved.ledger
  and p.position = moved.previous and p.incarnation = $3::uuid
  and not exists ( -- as of now, which is after the wait for the row: whoever parks a ledger holds its row
    select from projections.waiting w
    where w.projection = p.projection and w.generation = p.generation and w.ledger = p.ledger and w.state = 'parked'
  )
returning exists (
  select from projections.waiting w
  where w.projection = p.projection and w.generation = p.generation and w.ledger = p.ledger
    and w.state = 'waiting' and w.position <= p.position
)

-- name: announce
-- Heard when the transaction has been committed, and only then.
select pg_notify('daybook_visible', payload) from unnest($1::text[]) as payload

-- name: lag_age
-- Of the events that come next: the age of the oldest.
select coalesce(max(extract(epoch from clock_timestamp() - e.recorded_at)), 0)::double precision
from unnest(%(ledgers)s::text[], %(positions)s::bigint[]) as behind (ledger, position)
cross join lateral (
  select e.recorded_at from daybook.events e where e.ledger = behind.ledger and e.position = behind.position + 1 limit 1
) as e

-- name: lags
-- Every ledger whose position is not its head, in one look: (ledger, head, position).
select coalesce(l.ledger, p.ledger), coalesce(l.position, 0), coalesce(p.position, 0)
from daybook.ledgers l
full join (
  select p.ledger, p.position from projections.positions p
  where p.projection = %(projection)s and p.generation = %(generation)s
) as p on p.ledger = l.ledger
where coalesce(l.position, 0) <> coalesce(p.position, 0)
order by 1

-- name: column_types
select c.relname, a.attname, format_type(a.atttypid, null)
from pg_class c join pg_attribute a on a.attrelid = c.oid
where c.relnamespace = %(schema)s::regnamespace and c.relkind = 'r' and a.attnum > 0

-- name: standing
select w.ledger, w.position, w.attempts, w.state = 'parked', w.asked_at
from projections.waiting w
where w.projection = %(projection)s and w.generation = %(generation)s

-- name: skips
select s.ledger, s.position
from projections.skips s
where s.projection = %(projection)s and s.version = %(version)s and s.lifted_at is null

-- name: stand_still
-- Nobody stands still before a position that another worker has passed meanwhile. What parks is a dead letter besides.
with stood as (
insert into projections.waiting
  (projection, generation, ledger, position, state, event_type, error_class, error, trace_id)
select
  %(projection)s, %(generation)s, stuck.ledger, stuck.position, case when stuck.is_final then 'parked' else 'waiting' end,
  stuck.event_type, stuck.error_class, stuck.error, stuck.trace_id
from unnest(
  %(ledgers)s::text[], %(positions)s::bigint[], %(event_types)s::text[], %(error_classes)s::text[], %(errors)s::text[],
  %(trace_ids)s::text[], %(are_final)s::boolean[]
) as stuck (ledger, position, event_type, error_class, error, trace_id, is_final)
where not exists (
  select from projections.positions p
  where p.projection = %(projection)s and p.generation = %(generation)s and p.ledger = stuck.ledger
    and p.position >= stuck.position
)
order by stuck.ledger
on conflict (projection, generation, ledger) do update set
  attempts = case when waiting.position = excluded.position then waiting.attempts + 1 else 1 end,
  since = case when waiting.position = excluded.position then waiting.since else clock_timestamp() end,
  position = excluded.position, state = excluded.state, event_type = excluded.event_type,
  error_class = excluded.error_class, error = excluded.error, trace_id = excluded.trace_id,
  last_attempt_at = clock_timestamp()
where waiting.state = 'waiting'
returning *
)
insert into projections.dead_letters (
  projection, generation, ledger, position, version, event_type, error_class, error, trace_id,
  attempts, first_attempt_at, last_attempt_at
)
select
  stood.projection, stood.generation, stood.ledger, stood.position, %(version)s, stood.event_type, stood.error_class, stood.error,
  stood.trace_id, stood.attempts, stood.since, stood.last_attempt_at
from stood where stood.state = 'parked'
on conflict (projection, generation, ledger, position) do update set
  error_class = excluded.error_class, error = excluded.error, attempts = dead_letters.attempts + 1,
  last_attempt_at = excluded.last_attempt_at, published_at = null, resolved_at = null, resolution = null

-- name: go_on
with gone as (
  delete from projections.waiting w
  using unnest(%(ledgers)s::text[], %(reached)s::bigint[]) as moved (ledger, position)
  where w.projection = %(projection)s and w.generation = %(generation)s and w.ledger = moved.ledger
    and w.state = 'waiting' and w.position <= moved.position
  returning w.ledger, w.position
)
update projections.dead_letters d
set resolved_at = clock_timestamp(),
  resolution = case
    when exists (
      select from projections.skips s
      where s.projection = d.projection and s.version = d.version and s.ledger = d.ledger and s.position = d.position
        and s.lifted_at is null
    ) then 'skipped'
    else 'applied'
  end
from gone
where d.projection = %(projection)s and d.generation = %(generation)s and d.ledger = gone.ledger
  and d.position = gone.position

-- name: release
delete from projections.waiting w
where w.projection = %(projection)s and w.generation = %(generation)s and w.ledger = any(%(ledgers)s::text[])
  and w.state = 'waiting'
  and not exists (select from daybook.events e where e.ledger = w.ledger and e.position >= w.position)

-- name: leave_out
insert into projections.skipped (projection, generation, ledger, position)
select %(projection)s, %(generation)s, passed.ledger, passed.position
from unnest(%(ledgers)s::text[], %(positions)s::bigint[]) as passed (ledger, position)
on conflict do nothing

-- name: unpublished_letters
select d.projection, d.generation, g.incarnation::text, d.ledger, d.position, d.error_class, d.error, d.attempts,
  d.first_attempt_at, d.last_attempt_at
from projections.dead_letters d
join projections.generations g on g.projection = d.projection and g.generation = d.generation
join daybook.incarnation i on i.incarnation = g.incarnation -- what another log held is not in this one
where d.projection = %(projection)s and d.published_at is null
order by d.last_attempt_at
limit %(letters_max)s

-- name: letters_published
-- One that failed again since then is published again.
update projections.dead_letters d
set published_at = clock_timestamp()
from unnest(%(generations)s::integer[], %(ledgers)s::text[], %(positions)s::bigint[], %(attempts)s::integer[])
  as sent (generation, ledger, position, attempts)
where d.projection = %(projection)s and d.generation = sent.generation and d.ledger = sent.ledger
  and d.position = sent.position and d.attempts = sent.attempts

-- name: acquire_lease
-- By the database's clock; a relay that comes back finds its own lease free.
update projections.relay_lease
set owner = %(owner)s, epoch = epoch + 1, expires_at = clock_timestamp() + %(lease)s
where is_only and (expires_at <= clock_timestamp() or owner = %(owner)s)
returning epoch

-- name: renew_lease
update projections.relay_lease
set expires_at = clock_timestamp() + %(lease)s
where is_only and owner = %(owner)s and epoch = %(epoch)s

-- name: release_lease
-- As before the first relay: a lease that ran out keeps its end, and the monitor tells of it.
update projections.relay_lease
set expires_at = '-infinity'
where is_only and owner = %(owner)s and epoch = %(epoch)s

-- name: hold_lease
-- The fence: while this transaction lasts, nobody takes the lease over.
select from projections.relay_lease where is_only and epoch = %(epoch)s for share

-- name: forget_other_incarnations
update projections.relay_positions
set position = 0, incarnation = %(incarnation)s::uuid, epoch = %(epoch)s
where incarnation <> %(incarnation)s::uuid

-- name: relay_positions
select p.ledger, p.position from projections.relay_positions p

-- name: relay_lags
select coalesce(l.ledger, p.ledger), coalesce(l.position, 0), coalesce(p.position, 0)
from daybook.ledgers l
full join projections.relay_positions p on p.ledger = l.ledger
where coalesce(l.position, 0) <> coalesce(p.position, 0)
order by 1

-- name: advance_relay
select projections.advance_relay($1::bigint, $2::uuid, $3::text[], $4::bigint[], $5::bigint[])
