-- Importing a ledger: events go into the log at the positions and with the times that they had elsewhere (`daybook import`).
-- Whether the rules hold in them is checked by the caller (shared_kernel/checking.py); what is held here is that only a ledger
-- that nobody has comes into being, whole or not at all. SQLSTATEs of our own: DB005 malformed_call, DB006 ledger_exists,
-- DB007 recorded_in_the_future.

-- Writes the events after position `base` of a ledger that this very transaction made with a first call (`base` 0). Event i gets
-- position base + i; tag j belongs to event tag_events[j], counted from 1. Answers the new head.
create function daybook.import_events(
  of_ledger text, base bigint,
  event_types text[], event_data text[], event_metadata text[], event_recorded_at timestamptz[],
  tag_events integer[], tags text[],
  out head bigint
) language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set jit = off
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
  events  bigint := cardinality(event_types);
  last_at timestamptz;
begin
  if events = 0 or cardinality(event_data) <> events or cardinality(event_metadata) <> events
    or cardinality(event_recorded_at) <> events or cardinality(tags) <> cardinality(tag_events)
    or (base = 0 and event_types[1] not like 'LedgerOpened.v%')
  then
    raise exception 'malformed_call' using errcode = 'DB005';
  end if;
  if base = 0 then
    insert into daybook.ledgers (ledger, position, recorded_at) values (of_ledger, 0, event_recorded_at[1])
    on conflict do nothing;
    if not found then
      raise exception 'ledger_exists' using errcode = 'DB006';
    end if;
  end if;
  -- The head row's writer is this transaction: a ledger that was there before cannot be added to.
  select l.recorded_at into last_at from daybook.ledgers l
  where l.ledger = of_ledger and l.position = base and l.xmin = pg_current_xact_id()::xid;
  if not found then
    raise exception 'ledger_exists' using errcode = 'DB006';
  end if;
  if exists (
    select from (
      select e.at, lag(e.at, 1, last_at) over (order by e.ordinal) as before
      from unnest(event_recorded_at) with ordinality as e(at, ordinal)
    ) as timed
    where timed.at < timed.before or timed.at is null
  ) then
    raise exception 'malformed_call' using errcode = 'DB005';
  end if;
  -- Appends never go back in time: a ledger from the future would wait for it. Two servers' clocks may differ a little.
  if event_recorded_at[events] > clock_timestamp() + interval '5 minutes' then
    raise exception 'recorded_in_the_future' using errcode = 'DB007';
  end if;
  head := base + events;
  insert into daybook.events (ledger, position, type, data, metadata, recorded_at)
  select of_ledger, base + e.ordinal, e.type, e.data, e.metadata, e.at
  from unnest(event_types, event_data, event_metadata, event_recorded_at)
    with ordinality as e(type, data, metadata, at, ordinal);
  insert into daybook.event_tags (ledger, tag, position)
  select of_ledger, t.tag, base + t.event from unnest(tags, tag_events) as t(tag, event);
  update daybook.ledgers l set position = import_events.head, recorded_at = event_recorded_at[events]
  where l.ledger = of_ledger;
end
$$;

grant usage on schema daybook to daybook_importer;
grant execute on function
  daybook.import_events(text, bigint, text[], text[], text[], timestamptz[], integer[], text[])
  to daybook_importer;
