-- The relay remembers what it published in one call, which is a transaction by itself. SQLSTATE of our own: DB008 relay_fenced.

-- All positions move or none: under the epoch of the lease, which nobody takes over until this is committed, and from where they
-- are believed to be. A ledger with the previous position 0 may have none yet.
create function projections.advance_relay(
  of_epoch bigint, of_incarnation uuid, of_ledgers text[], previous bigint[], reached bigint[]
) returns void language plpgsql
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
  moved bigint;
begin
  perform from projections.relay_lease l where l.is_only and l.epoch = of_epoch for share;
  if not found then
    raise exception 'relay_fenced' using errcode = 'DB008';
  end if;
  if 0 = any(previous) then
    insert into projections.relay_positions (ledger, position, incarnation, epoch)
    select new.ledger, 0, of_incarnation, of_epoch
    from unnest(of_ledgers, previous) as new (ledger, previous)
    where new.previous = 0
    order by new.ledger
    on conflict do nothing;
  end if;
  update projections.relay_positions p
  set position = m.position, epoch = of_epoch
  from unnest(of_ledgers, previous, reached) as m (ledger, previous, position)
  where p.ledger = m.ledger and p.position = m.previous and p.epoch <= of_epoch and p.incarnation = of_incarnation;
  get diagnostics moved = row_count;
  if moved <> cardinality(of_ledgers) then
    raise exception 'relay_fenced' using errcode = 'DB008';
  end if;
end
$$;

revoke all on function projections.advance_relay(bigint, uuid, text[], bigint[], bigint[]) from public;
grant execute on function projections.advance_relay(bigint, uuid, text[], bigint[], bigint[]) to daybook_relay;
