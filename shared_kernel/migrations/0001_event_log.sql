-- The event log: one ledger, one gap-free sequence of events, one head row whose lock orders its appends.
-- `daybook.append` is the only door: no process role may write ledgers, events or event_tags otherwise.
-- SQLSTATEs of our own: DB001 incarnation_changed, DB002 ledger_not_found, DB003 position_beyond_head,
-- DB004 log_is_immutable, DB005 malformed_call.

-- Nothing that the owner makes is public unless a grant below says so.
alter default privileges revoke all on functions from public;
alter default privileges revoke all on types from public;
revoke all on schema daybook from public;
revoke all on daybook.migrations from public;

create table daybook.incarnation (
  is_only     boolean     not null default true primary key check (is_only),
  incarnation uuid        not null default gen_random_uuid(),
  changed_at  timestamptz not null default clock_timestamp()
);
insert into daybook.incarnation default values;

-- The head row is updated by every append: a nearly empty page keeps these updates on it (HOT), index untouched.
create table daybook.ledgers (
  ledger      text collate "C" not null primary key,
  position    bigint           not null check (position >= 0),
  recorded_at timestamptz      not null
) with (
  fillfactor = 10, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0.01,
  autovacuum_analyze_threshold = 500, autovacuum_analyze_scale_factor = 0.01
);

-- No foreign keys and no checks: append is the only writer, and it holds the head row.
-- Rows never change, so vacuum may freeze them the first time it passes.
create table daybook.events (
  ledger      text collate "C" not null,
  position    bigint           not null,
  type        text collate "C" not null,
  data        text             not null,
  metadata    text             not null,
  recorded_at timestamptz      not null,
  primary key (ledger, position)
) with (autovacuum_freeze_min_age = 0, autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);

create table daybook.event_tags (
  ledger   text collate "C" not null,
  tag      text collate "C" not null,
  position bigint           not null,
  primary key (ledger, tag, position)
) with (autovacuum_freeze_min_age = 0, autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);

-- A cache of folds, never the truth.
create table daybook.snapshots (
  ledger       text collate "C" not null,
  address      text collate "C" not null,
  fold_version integer          not null,
  incarnation  uuid             not null,
  position     bigint           not null,
  state        text             not null,
  primary key (ledger, address, fold_version, incarnation)
) with (fillfactor = 80);

-- Immutability ---------------------------------------------------------------------------------------------

create function daybook.refuse_change() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  raise exception '% on %.%: the log is immutable', tg_op, tg_table_schema, tg_table_name using errcode = 'DB004';
end
$$;

create trigger immutable before update or delete or truncate on daybook.events
  for each statement execute function daybook.refuse_change();
create trigger immutable before update or delete or truncate on daybook.event_tags
  for each statement execute function daybook.refuse_change();
-- A head that vanished would hand out its positions again.
create trigger permanent before delete or truncate on daybook.ledgers
  for each statement execute function daybook.refuse_change();
create trigger permanent before delete or truncate on daybook.incarnation
  for each statement execute function daybook.refuse_change();

-- Reading --------------------------------------------------------------------------------------------------
-- Every function below pins its plans: planned while a table is empty, a statement would keep a sequential scan, and
-- later statistics make the planner read a whole ledger once rather than a few rows by their key. Where one row is
-- wanted, `limit 1` in a lateral subquery leaves no other plan than looking it up.

-- Positions after `after` of the events that match at least one item, ascending; no items: of all events.
-- An item is {"types": […], "tags": […]}: one of the types (none given: any) and all of the tags.
create function daybook.matching(of_ledger text, items jsonb, after bigint, events_max bigint)
returns setof bigint language plpgsql stable rows 100
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set jit = off
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set enable_material = off set enable_memoize = off
as $$
begin
  if items is null or items = '[]' then
    return query
    select e.position from daybook.events e
    where e.ledger = of_ledger and e.position > after order by e.position limit events_max;
    return;
  end if;
  return query
  select distinct m.position
  from jsonb_array_elements(items) as i(item)
  cross join lateral (
    select t.position from daybook.event_tags t
    where t.ledger = of_ledger and t.tag = i.item->'tags'->>0 and t.position > after
      and not exists (
        select from jsonb_array_elements_text(i.item->'tags') as w(tag)
        where (select o.position from daybook.event_tags o
               where o.ledger = of_ledger and o.tag = w.tag and o.position = t.position) is null)
      and (i.item->'types' = '[]' or i.item->'types' ? (
        select e.type from daybook.events e where e.ledger = of_ledger and e.position = t.position))
    union all
    select e.position from daybook.events e
    where i.item->'tags' = '[]' and e.ledger = of_ledger and e.position > after
      and (i.item->'types' = '[]' or i.item->'types' ? e.type)
  ) as m
  order by m.position limit events_max;
end
$$;

-- The last position recorded at or before `at` (0: none yet; null: no such ledger). Recorded times never decrease
-- with position and positions have no gaps, so this is a binary search and needs no index of its own.
create function daybook.position_as_of(of_ledger text, at timestamptz) returns bigint language plpgsql stable
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set jit = off
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
  low    bigint := 0;
  high   bigint;
  middle bigint;
begin
  select l.position into high from daybook.ledgers l where l.ledger = of_ledger;
  while low < high loop
    middle := (low + high + 1) / 2;
    if (select e.recorded_at from daybook.events e where e.ledger = of_ledger and e.position = middle) <= at then
      low := middle;
    else
      high := middle - 1;
    end if;
  end loop;
  return case when high is null then null else low end;
end
$$;

-- One consistent look at a ledger: STABLE, so every statement in it sees the snapshot of the caller's statement.
-- tags[i] may name a snapshot to start from: snapshot_addresses[i] (or null) at fold_versions[i]. Events come by
-- tag (event_tag_indexes counts from 1) and then by position. The tail ends at head; seen null: no tail asked.
create function daybook.load(
  expected_incarnation uuid, of_ledger text, seen bigint, tail_events_max bigint, tail_bytes_max bigint,
  tags text[], snapshot_addresses text[], fold_versions integer[],
  out is_behind boolean, out head bigint, out recorded_at timestamptz,
  out tail_positions bigint[], out tail_types text[], out tail_data text[], out tail_metadata text[],
  out tail_recorded_at timestamptz[],
  out event_tag_indexes integer[], out event_positions bigint[], out event_types text[], out event_data text[],
  out event_metadata text[], out event_recorded_at timestamptz[],
  out snapshot_tag_indexes integer[], out snapshot_positions bigint[], out snapshot_states text[]
) language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set jit = off
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set enable_material = off set enable_memoize = off
as $$
begin
  if not exists (select from daybook.incarnation i where i.is_only and i.incarnation = expected_incarnation) then
    raise exception 'incarnation_changed' using errcode = 'DB001';
  end if;
  select l.position, l.recorded_at into load.head, load.recorded_at from daybook.ledgers l where l.ledger = of_ledger;
  if not found then
    raise exception 'ledger_not_found' using errcode = 'DB002';
  elsif seen > head then
    raise exception 'position_beyond_head' using errcode = 'DB003';
  end if;

  is_behind := seen < head and (
    head - seen > tail_events_max
    or (select sum(octet_length(e.data) + octet_length(e.metadata)) from daybook.events e
        where e.ledger = of_ledger and e.position > seen) > tail_bytes_max);
  is_behind := coalesce(is_behind, false);
  if seen < head and not is_behind then
    select array_agg(t.position), array_agg(t.type), array_agg(t.data), array_agg(t.metadata), array_agg(t.recorded_at)
    into tail_positions, tail_types, tail_data, tail_metadata, tail_recorded_at
    from (select e.* from daybook.events e
          where e.ledger = of_ledger and e.position > seen order by e.position) as t;
  end if;

  select array_agg(k.ordinal::integer), array_agg(s.position), array_agg(s.state)
  into snapshot_tag_indexes, snapshot_positions, snapshot_states
  from unnest(snapshot_addresses, fold_versions) with ordinality as k(address, fold_version, ordinal)
  cross join lateral (
    select s.position, s.state from daybook.snapshots s
    where s.ledger = of_ledger and s.address = k.address and s.fold_version = k.fold_version
      and s.incarnation = expected_incarnation limit 1
  ) as s;

  select array_agg(b.ordinal::integer), array_agg(e.position), array_agg(e.type), array_agg(e.data),
         array_agg(e.metadata), array_agg(e.recorded_at)
  into event_tag_indexes, event_positions, event_types, event_data, event_metadata, event_recorded_at
  from (
    select k.ordinal, t.position
    from unnest(tags, snapshot_addresses, fold_versions) with ordinality as k(tag, address, fold_version, ordinal)
    cross join lateral (
      select t.position from daybook.event_tags t
      where t.ledger = of_ledger and t.tag = k.tag and t.position > coalesce((
        select s.position from daybook.snapshots s
        where s.ledger = of_ledger and s.address = k.address and s.fold_version = k.fold_version
          and s.incarnation = expected_incarnation), 0)
      order by t.position
    ) as t
    order by k.ordinal, t.position
  ) as b
  cross join lateral (
    select e.* from daybook.events e where e.ledger = of_ledger and e.position = b.position limit 1) as e;
end
$$;

-- Writing --------------------------------------------------------------------------------------------------

-- Appends the events of every group whose conditions hold, in the order given, at positions base + 1, base + 2, …
-- VOLATILE and READ COMMITTED: each statement takes its own snapshot. The head row is locked by a statement of its
-- own, so that the fences in the later ones see whatever was committed while this call waited for the lock.
-- Fence i: no event tagged fence_tags[i] stands after fence_afters[i]; if it fails, group fence_groups[i] falls.
-- Event i belongs to group event_groups[i]; tag i belongs to event tag_events[i] (counted from 1) and no event
-- bears a tag twice. Fences look at the log before this call, never at the call's own events.
-- conditions (null on the hot path): [{"group": 0, "after": 3, "items": […]}], items as in `matching`.
-- seen: also return the events after it up to base; beyond the bounds nothing is judged or appended (is_behind).
-- failed_fences and failed_conditions count from 1.
-- follows: the call was decided on what the call with this chain_token makes of the ledger, sent on this session just before;
-- unless that one appended all it had, and directly after its own `seen`, nothing is judged or appended (is_unchained). The
-- token is kept by the session only if that call commits, and is never used twice, so a session that changed hands matches none.
create function daybook.append(
  expected_incarnation uuid, of_ledger text, seen bigint, tail_events_max bigint, tail_bytes_max bigint,
  fence_groups integer[], fence_tags text[], fence_afters bigint[],
  event_groups integer[], event_types text[], event_data text[], event_metadata text[],
  tag_events integer[], tags text[], conditions jsonb, follows text, chain_token text,
  out is_behind boolean, out is_unchained boolean, out base bigint, out head bigint, out recorded_at timestamptz,
  out failed_fences integer[], out failed_conditions integer[],
  out tail_positions bigint[], out tail_types text[], out tail_data text[], out tail_metadata text[],
  out tail_recorded_at timestamptz[]
) language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set jit = off
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set enable_material = off set enable_memoize = off
as $$
declare
  kept            bigint := cardinality(event_types);
  dropped         integer[];  -- groups with a failed fence or condition
  dropped_besides integer[];
  positions       bigint[];   -- of each event, 0 where its group is dropped; null: nothing is dropped
begin
  if cardinality(fence_tags) <> cardinality(fence_groups) or cardinality(fence_afters) <> cardinality(fence_groups)
    or cardinality(event_groups) <> kept or cardinality(event_data) <> kept or cardinality(event_metadata) <> kept
    or cardinality(tags) <> cardinality(tag_events)
  then
    raise exception 'malformed_call' using errcode = 'DB005';
  end if;
  if not exists (select from daybook.incarnation i where i.is_only and i.incarnation = expected_incarnation) then
    raise exception 'incarnation_changed' using errcode = 'DB001';
  end if;
  is_unchained := follows is not null and follows is distinct from current_setting('daybook.chain', true);
  if is_unchained then
    return;
  end if;
  if event_types[1] like 'LedgerOpened.v%' then
    insert into daybook.ledgers (ledger, position, recorded_at) values (of_ledger, 0, clock_timestamp())
    on conflict do nothing;
  end if;
  select l.position, l.recorded_at into append.base, append.recorded_at
  from daybook.ledgers l where l.ledger = of_ledger for update;
  if not found then
    raise exception 'ledger_not_found' using errcode = 'DB002';
  elsif seen > base then
    raise exception 'position_beyond_head' using errcode = 'DB003';
  end if;
  head := base;
  is_behind := false;

  if seen < base then
    is_behind := base - seen > tail_events_max;
    if not is_behind then
      is_behind := (
        select sum(octet_length(e.data) + octet_length(e.metadata)) from daybook.events e
        where e.ledger = of_ledger and e.position > seen) > tail_bytes_max;
    end if;
    if is_behind then
      return;
    end if;
    select array_agg(t.position), array_agg(t.type), array_agg(t.data), array_agg(t.metadata), array_agg(t.recorded_at)
    into tail_positions, tail_types, tail_data, tail_metadata, tail_recorded_at
    from (select e.* from daybook.events e
          where e.ledger = of_ledger and e.position > seen order by e.position) as t;
  end if;

  -- A fence at the head holds without a look. The correlated scalar subquery can only be one index descent.
  select array_agg(f.ordinal::integer), array_agg(f.group_index) into failed_fences, dropped
  from unnest(fence_groups, fence_tags, fence_afters) with ordinality as f(group_index, tag, after, ordinal)
  where f.after < base and (
    select t.position from daybook.event_tags t
    where t.ledger = of_ledger and t.tag = f.tag order by t.position desc limit 1) > f.after;
  if conditions is not null then
    select array_agg(c.ordinal::integer), array_agg((c.condition->>'group')::integer)
    into failed_conditions, dropped_besides
    from jsonb_array_elements(conditions) with ordinality as c(condition, ordinal)
    where exists (
      select from daybook.matching(of_ledger, c.condition->'items', coalesce((c.condition->>'after')::bigint, 0), 1));
    dropped := dropped || dropped_besides;
  end if;
  if dropped is not null then
    kept := 0;
    positions := array_fill(0::bigint, array[cardinality(event_groups)]);
    for i in 1 .. cardinality(event_groups) loop
      if event_groups[i] <> all (dropped) then
        kept := kept + 1;
        positions[i] := base + kept;
      end if;
    end loop;
  end if;
  if chain_token is not null and seen = base and dropped is null then
    perform set_config('daybook.chain', chain_token, false);
  end if;
  if kept = 0 then
    return;
  end if;

  -- now() is from before the wait for the lock, and the clock may step back: recorded time never does.
  recorded_at := greatest(clock_timestamp(), recorded_at);
  head := base + kept;
  insert into daybook.events (ledger, position, type, data, metadata, recorded_at)
  select of_ledger, coalesce(positions[e.ordinal], base + e.ordinal), e.type, e.data, e.metadata, append.recorded_at
  from unnest(event_types, event_data, event_metadata) with ordinality as e(type, data, metadata, ordinal)
  where coalesce(positions[e.ordinal], 1) > 0;
  insert into daybook.event_tags (ledger, tag, position)
  select of_ledger, t.tag, coalesce(positions[t.event], base + t.event)
  from unnest(tags, tag_events) as t(tag, event)
  where coalesce(positions[t.event], 1) > 0;
  update daybook.ledgers l set position = append.head, recorded_at = append.recorded_at where l.ledger = of_ledger;
end
$$;

-- Locks the heads of all these ledgers until the transaction ends, in sorted order whoever asks: no two callers
-- can wait for each other. Answers them in that order.
create function daybook.lock_heads(
  expected_incarnation uuid, of_ledgers text[], out ledger text, out head bigint, out recorded_at timestamptz
) returns setof record language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off
as $$
begin
  if not exists (select from daybook.incarnation i where i.is_only and i.incarnation = expected_incarnation) then
    raise exception 'incarnation_changed' using errcode = 'DB001';
  end if;
  for lock_heads.ledger in select distinct n.name collate "C" from unnest(of_ledgers) as n(name) order by 1 loop
    select l.position, l.recorded_at into lock_heads.head, lock_heads.recorded_at
    from daybook.ledgers l where l.ledger = lock_heads.ledger for update;
    if not found then
      raise exception 'ledger_not_found' using errcode = 'DB002';
    end if;
    return next;
  end loop;
end
$$;

-- An empty ledger without a LedgerOpened event: for the conformance suite only, so nobody but the owner may.
create function daybook.create_ledger_head(of_ledger text) returns void language sql
set search_path = pg_catalog, pg_temp
as $$
  insert into daybook.ledgers (ledger, position, recorded_at) values (of_ledger, 0, clock_timestamp()) on conflict do nothing
$$;

-- The database was restored from a backup: whatever remembers the old incarnation must stop trusting its positions.
create function daybook.restored() returns uuid language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  fresh uuid := gen_random_uuid();
begin
  update daybook.incarnation set incarnation = fresh, changed_at = clock_timestamp() where is_only;
  truncate daybook.snapshots;
  return fresh;
end
$$;

-- Rights ---------------------------------------------------------------------------------------------------

grant usage on schema daybook to daybook_command, daybook_query, daybook_relay, daybook_projector;
grant select on daybook.incarnation, daybook.ledgers, daybook.events, daybook.event_tags
  to daybook_command, daybook_query, daybook_relay, daybook_projector;
grant select, insert, update, delete on daybook.snapshots to daybook_command;
grant execute on function daybook.matching(text, jsonb, bigint, bigint), daybook.position_as_of(text, timestamptz)
  to daybook_command, daybook_query, daybook_relay, daybook_projector;
grant execute on function daybook.load(uuid, text, bigint, bigint, bigint, text[], text[], integer[]) to daybook_command;
grant execute on function
  daybook.append(uuid, text, bigint, bigint, bigint, integer[], text[], bigint[], integer[], text[], text[], text[],
                 integer[], text[], jsonb, text, text),
  daybook.lock_heads(uuid, text[])
  to daybook_command;
