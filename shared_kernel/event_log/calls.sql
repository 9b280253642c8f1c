-- The log's calls, with numbered parameters; calls.py says what they carry.

-- name: append
select is_behind, base, head, recorded_at, failed_fences, tail_positions, tail_types, tail_data, tail_metadata,
       tail_recorded_at, failed_conditions, is_unchained
from daybook.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)

-- name: load
select is_behind, head, recorded_at, tail_positions, tail_types, tail_data, tail_metadata, tail_recorded_at,
       event_positions, event_types, event_data, event_metadata, event_recorded_at, event_tag_indexes,
       snapshot_tag_indexes, snapshot_positions, snapshot_states
from daybook.load($1, $2, $3, $4, $5, $6, $7, $8)

-- name: lock_heads
select ledger, head from daybook.lock_heads($1, $2)

-- name: write_snapshots
-- Sorted, so that two writers cannot wait for each other; an older snapshot never replaces a newer one.
insert into daybook.snapshots as s (ledger, incarnation, address, fold_version, position, state)
select $1, $2, n.address, n.fold_version, n.position, n.state
from unnest($3::text[], $4::integer[], $5::bigint[], $6::text[]) as n(address, fold_version, position, state)
order by n.address, n.fold_version
on conflict (ledger, address, fold_version, incarnation)
do update set position = excluded.position, state = excluded.state where s.position < excluded.position

-- name: page
-- The first events ($6 at most) of an account after its snapshot, each row beside that; no row where there are none.
with s as (
  select s.position, s.state from daybook.snapshots s
  where s.ledger = $1 and s.incarnation = $2 and s.address = $3 and s.fold_version = $4
)
select (select position from s), (select state from s), e.position, e.type, e.data, e.metadata, e.recorded_at
from (
  select t.position from daybook.event_tags t
  where t.ledger = $1 and t.tag = $5 and t.position > coalesce((select position from s), 0)
  order by t.position limit $6
) as t
cross join lateral (select e.* from daybook.events e where e.ledger = $1 and e.position = t.position limit 1) as e
order by e.position

-- name: notify
-- NOTIFY gives its transaction an id, so its commit would wait for the disk like an append: nobody needs that of a hint.
select set_config('synchronous_commit', 'off', true), pg_notify($1, n.payload) from unnest($2::text[]) as n(payload)

-- name: start_session
-- What a session must hold before it may write, and what identifies its backend afterwards. Asynchronous commit would make
-- every answer a promise that a crash breaks; any other value is the operator's choice.
select
  pg_backend_pid()::text,
  (select a.backend_start::text from pg_stat_activity a where a.pid = pg_backend_pid()),
  (select i.incarnation::text from daybook.incarnation i where i.is_only),
  set_config('lock_timeout', $1, false),
  set_config('statement_timeout', $2, false),
  set_config('idle_in_transaction_session_timeout', $3, false),
  set_config('default_transaction_isolation', 'read committed', false),
  set_config('synchronous_commit',
             case current_setting('synchronous_commit') when 'off' then 'on' else current_setting('synchronous_commit') end,
             false)

-- name: terminate_backend
select pg_terminate_backend(a.pid, $3::bigint) from pg_stat_activity a where a.pid = $1::integer and a.backend_start = $2::timestamptz

-- name: find_backend
select from pg_stat_activity a where a.pid = $1::integer and a.backend_start = $2::timestamptz

-- name: create_head
select daybook.create_ledger_head($1)

-- name: read_incarnation
select i.incarnation from daybook.incarnation i where i.is_only

-- name: read_matching
-- The head, and beside it the matching events; one row without an event where there are none.
select l.position, e.position, e.type, e.data, e.metadata
from daybook.ledgers l
left join lateral (
  select e.* from daybook.matching($1, $2, $3, $4) as m(position)
  cross join lateral (select e.* from daybook.events e where e.ledger = $1 and e.position = m.position limit 1) as e
) as e on true
where l.ledger = $1
order by e.position

-- name: read_tags
-- A scan of the ledger's tags: only for events whose writer did not keep them in the metadata.
select t.position, array_agg(t.tag order by t.tag) from daybook.event_tags t
where t.ledger = $1 and t.position = any($2) group by t.position
