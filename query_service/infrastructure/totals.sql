-- Totals by effective time, sums over many accounts, and what changed between two positions. Stamp and places as in books.sql.

-- name: effective_totals
-- What was posted of `pair` (address, asset) with position <= until.seen and (effective time, position) <= (until.effective_at,
-- until.position); with until.position = until.seen: all that was effective by then. How the two tables add up to it stands in
-- projections/infrastructure/periods.sql. Costs what years, months … seconds and instants of one second there are, not what was posted.
lateral (
  select
    coalesce(timely.debits, 0) + coalesce(untimely.debits, 0) as debits,
    coalesce(timely.credits, 0) + coalesce(untimely.credits, 0) as credits,
    timely.debits is not null or untimely.debits is not null as is_there
  from (select) nothing
  left join lateral (
    select
      case when seen.position < counted.position then seen.debits else counted.debits end as debits,
      case when seen.position < counted.position then seen.credits else counted.credits end as credits
    from (
      select known.position, known.debits, known.credits from {periods}.timely known
      where known.ledger = %(ledger)s and known.address = pair.address and known.asset = pair.asset
        and known.position <= until.seen
      order by known.position desc limit 1
    ) seen
    cross join lateral (
      select known.position, known.debits, known.credits from {periods}.timely known
      where known.ledger = %(ledger)s and known.address = pair.address and known.asset = pair.asset
        and (known.effective_at, known.position) <= (until.effective_at, until.position)
      order by known.effective_at desc, known.position desc limit 1
    ) counted
  ) timely on true
  left join lateral (
    with recursive met as (
      select spans.span, spans.high, first.begins_at
      from (values
        ('year', '-infinity'::timestamptz, date_trunc('year', until.effective_at)),
        ('month', date_trunc('year', until.effective_at), date_trunc('month', until.effective_at)),
        ('day', date_trunc('month', until.effective_at), date_trunc('day', until.effective_at)),
        ('hour', date_trunc('day', until.effective_at), date_trunc('hour', until.effective_at)),
        ('minute', date_trunc('hour', until.effective_at), date_trunc('minute', until.effective_at)),
        ('second', date_trunc('minute', until.effective_at), date_trunc('second', until.effective_at)),
        ('instant', date_trunc('second', until.effective_at), until.effective_at + interval '1 microsecond')
      ) as spans (span, low, high)
      cross join lateral (
        select known.begins_at from {periods}.untimely known
        where known.ledger = %(ledger)s and known.address = pair.address and known.asset = pair.asset
          and known.span = spans.span and known.begins_at >= spans.low and known.begins_at < spans.high
        order by known.begins_at limit 1
      ) first
      union all
      select met.span, met.high, next.begins_at
      from met
      cross join lateral (
        select known.begins_at from {periods}.untimely known
        where known.ledger = %(ledger)s and known.address = pair.address and known.asset = pair.asset
          and known.span = met.span and known.begins_at > met.begins_at and known.begins_at < met.high
        order by known.begins_at limit 1
      ) next
    )
    select sum(last.debits) as debits, sum(last.credits) as credits
    from met
    cross join lateral (
      select known.debits, known.credits from {periods}.untimely known
      where known.ledger = %(ledger)s and known.address = pair.address and known.asset = pair.asset
        and known.span = met.span and known.begins_at = met.begins_at
        and known.position <= case
          when met.span = 'instant' and met.begins_at = until.effective_at then least(until.seen, until.position)
          else until.seen
        end
      order by known.position desc limit 1
    ) last
  ) untimely on true
) effective

-- name: pairs
-- The next accounts and assets that ever had an entry, in the order of addresses, up to a number: one index probe each. `begin`
-- is not before the first address that is wanted: the scan has no other bound to begin at.
pairs as (
  (
    select first.address, first.asset, 1::bigint as number from {schema}.entries first
    where first.ledger = %(ledger)s and (first.address, first.asset) >= (%(begin)s, %(begin_asset)s)
      and first.address < %(high)s
    order by first.address, first.asset limit 1
  )
  union all
  select next.address, next.asset, pairs.number + 1 from pairs
  cross join lateral (
    select later.address, later.asset from {schema}.entries later
    where later.ledger = %(ledger)s and (later.address, later.asset) > (pairs.address, pairs.asset)
      and later.address < %(high)s
    order by later.address, later.asset limit 1
  ) next
  where pairs.number < %(pairs_max)s::bigint
)

-- name: pair_terms
lateral (
  select known.normal_balance from {schema}.accounts known
  where known.ledger = %(ledger)s and known.address = pair.address order by known.position limit 1
) terms

-- name: pair_totals
-- The balances of `pair` just after the event at `until.seen`.
lateral (
  select entry.posted_debits, entry.posted_credits, entry.pending_debits, entry.pending_credits
  from {schema}.entries entry
  where entry.ledger = %(ledger)s and entry.address = pair.address and entry.asset = pair.asset
    and entry.position <= until.seen
  order by entry.position desc, entry.entry_index desc limit 1
)

-- name: pairs_end
-- Where the walk ended, to go on from.
select
  true as is_end, null::text as grouped, last.asset, null::text as normal_balance, last.number as accounts, null::numeric as posted_debits,
  null::numeric as posted_credits, null::numeric as pending_debits, null::numeric as pending_credits, last.address as walked_to
from (select * from pairs order by pairs.number desc limit 1) last

-- name: sums
-- What the next accounts have together by group (leading segments), asset and normal side, and where the walk ended.
with recursive {stamp}, {pairs}
select {stamped}, found.*
from stamp
left join lateral (
  select
    false as is_end, array_to_string((string_to_array(pair.address, ':'))[1:%(segments)s::integer], ':') as grouped, pair.asset,
    terms.normal_balance, count(*) as accounts, sum(total.posted_debits) as posted_debits,
    sum(total.posted_credits) as posted_credits, sum(total.pending_debits) as pending_debits,
    sum(total.pending_credits) as pending_credits, ''::text as walked_to
  from (select stamp.at as seen) until
  cross join pairs pair
  cross join {pair_terms}
  cross join {pair_totals} total
  where pair.address ~ %(matching)s
  group by 2, 3, 4
  union all
  {pairs_end}
) found on stamp.at is not null

-- name: effective_sums
with recursive {both_stamp}, {pairs}
select {stamped}, found.*
from stamp
left join lateral (
  select
    false as is_end, array_to_string((string_to_array(pair.address, ':'))[1:%(segments)s::integer], ':') as grouped, pair.asset,
    terms.normal_balance, count(*) as accounts, sum(effective.debits) as posted_debits,
    sum(effective.credits) as posted_credits, null::numeric as pending_debits, null::numeric as pending_credits,
    ''::text as walked_to
  from (
    select %(effective_at)s::timestamptz as effective_at, stamp.at as position, stamp.at as seen
  ) until
  cross join pairs pair
  cross join {pair_terms}
  cross join {effective_totals}
  where pair.address ~ %(matching)s and effective.is_there
  group by 2, 3, 4
  union all
  {pairs_end}
) found on stamp.at is not null

-- name: change_columns
false as is_end, changed.address, changed.asset, changed.normal_balance, changed.debits_before, changed.credits_before,
  changed.debits_after, changed.credits_after, made.entries, ''::text as walked_to

-- name: changes_end
select true, null, last.asset, null, last.number, null, null, null, null, last.address
from (select * from pairs order by pairs.number desc limit 1) last

-- name: shown_before
-- After which entry the entries of `changed` begin: within the account and asset that a page goes on in, else after from_position.
lateral (
  select
    case when continued.is_true then %(after_position)s::bigint else %(from_position)s::bigint end as position,
    case when continued.is_true then %(after_index)s::bigint else 2147483647 end as entry_index
  from (
    select %(after_position)s::bigint > 0 and (changed.address, changed.asset) = (%(begin)s, %(begin_asset)s) as is_true
  ) continued
  offset 0 -- a fence: it stands in the bounds of indexes by its names
)

-- name: as_json
lateral (
  select json_agg(json_build_object(
    'position', entry.position, 'entry_index', entry.entry_index, 'transaction', entry.transaction_id,
    'direction', entry.direction, 'amount', entry.amount, 'effective_at', entry.effective_at, 'recorded_at', entry.recorded_at,
    'fits', entry.fits, 'is_cut_off', entry.is_cut_off
  ) order by entry.number)::text as entries

-- name: change_entries
-- The next posted entries of `changed` in the order of the log; after walk_max entries the walk is cut off, whatever it has found.
{as_json}
  from (
    select * from (
      select walk.*, walk.kind in ('posted', 'captured') as fits, walk.number = %(walk_max)s::bigint as is_cut_off
      from (
        select *, row_number() over (order by known.position, known.entry_index) as number from {schema}.entries known
        where known.ledger = %(ledger)s and known.address = changed.address and known.asset = changed.asset
          and known.position <= stamp.at and (known.position, known.entry_index) > (shown.position, shown.entry_index)
        order by known.position, known.entry_index
        limit %(walk_max)s::bigint
      ) walk
    ) looked
    where looked.fits or looked.is_cut_off
    order by looked.number
    limit %(entries_max)s::bigint
  ) entry
)

-- name: late_events
-- The next events of `changed` that are effective before effective_until, though recorded after from_position, from `reached` (effective
-- time, position) on, in that order. What was recorded in between and is effective later is not passed over, but never come to.
-- Timely ones: position and effective time rise together, so that they are one range of positions.
-- Untimely ones: a walk from year to month … to instant that goes into those spans only that have a late event, one row a step, so
-- that it comes to each in the order of time, and stops when there are enough. Of the first instant all may have been shown.
(
  (
    select timely.effective_at, timely.position
    from (
      select known.position from {periods}.timely known
      where known.ledger = %(ledger)s and known.address = changed.address and known.asset = changed.asset
        and (known.effective_at, known.position) >= (reached.effective_at, reached.position)
      order by known.effective_at, known.position limit 1
    ) first
    cross join lateral (
      select known.position from {periods}.timely known
      where known.ledger = %(ledger)s and known.address = changed.address and known.asset = changed.asset
        and known.effective_at < %(effective_until)s
      order by known.effective_at desc, known.position desc limit 1
    ) last
    cross join lateral ( -- positions alone: the key has them in order, and no other index does
      select known.position from {periods}.timely known
      where known.ledger = %(ledger)s and known.address = changed.address and known.asset = changed.asset
        and known.position >= greatest(%(from_position)s::bigint, first.position)
        and known.position > %(from_position)s::bigint and known.position <= least(stamp.at, last.position)
      order by known.position
      limit %(entries_max)s::bigint + 1
    ) ranged
    cross join lateral (
      select known.effective_at, known.position from {schema}.entries known
      where known.ledger = %(ledger)s and known.address = changed.address and known.asset = changed.asset
        and known.position = ranged.position
      order by known.entry_index limit 1
    ) timely
  )
  union all
  (
    with recursive walk as (
      select 0 as level, '-infinity'::timestamptz as begins_at, true as is_late, 0 as instants
      union all
      select
        case when next.begins_at is null then span.level - 1 else span.level end,
        coalesce(next.begins_at, outer_span.begins_at),
        coalesce(next.is_late, false),
        walk.instants + coalesce(next.is_late and span.level = 7, false)::integer
      from walk
      join (values
        (1, 'year', 'year', null), (2, 'month', 'month', 'year'), (3, 'day', 'day', 'month'), (4, 'hour', 'hour', 'day'),
        (5, 'minute', 'minute', 'hour'), (6, 'second', 'second', 'minute'), (7, 'instant', 'microseconds', 'second')
      ) as span (level, name, unit, outer_unit) on span.level = walk.level + (walk.is_late and walk.level < 7)::integer
      cross join lateral (
        select date_trunc(span.outer_unit, walk.begins_at) as begins_at,
          date_trunc(span.outer_unit, walk.begins_at) + ('1 ' || span.outer_unit)::interval as ends_at
      ) outer_span
      left join lateral (
        select first.begins_at, exists (
            select from {periods}.untimely known
            where known.ledger = %(ledger)s and known.address = changed.address and known.asset = changed.asset
              and known.span = span.name and known.begins_at = first.begins_at
              and known.position > %(from_position)s::bigint and known.position <= stamp.at
          ) as is_late
        from (
          select known.begins_at from {periods}.untimely known
          where known.ledger = %(ledger)s and known.address = changed.address and known.asset = changed.asset
            and known.span = span.name
            and known.begins_at >= greatest(
              case when span.level > walk.level then walk.begins_at else walk.begins_at + interval '1 microsecond' end,
              date_trunc(span.unit, reached.effective_at)
            )
            and known.begins_at < least(outer_span.ends_at, %(effective_until)s::timestamptz)
          order by known.begins_at limit 1
        ) first
      ) next on true
      where (walk.level > 0 or walk.is_late) and walk.instants < %(entries_max)s::bigint + 2
    )
    select known.begins_at, known.position
    from walk
    cross join lateral (
      select * from {periods}.untimely known
      where known.ledger = %(ledger)s and known.address = changed.address and known.asset = changed.asset
        and known.span = 'instant' and known.begins_at = walk.begins_at
        and known.position > greatest(
          %(from_position)s::bigint, case when walk.begins_at = reached.effective_at then reached.position - 1 end
        )
        and known.position <= stamp.at
      order by known.position
      limit %(entries_max)s::bigint + 1
    ) known
    where walk.level = 7 and walk.is_late
    order by known.begins_at, known.position
    limit %(entries_max)s::bigint + 1
  )
)

-- name: late_entries
-- The next posted entries of `changed` that are effective before effective_until, in the order of effective time.
lateral (
  select coalesce(max(last.effective_at), '-infinity') as effective_at, shown.position
  from (
    select known.effective_at from {schema}.entries known
    where known.ledger = %(ledger)s and known.address = changed.address and known.asset = changed.asset
      and known.position = shown.position and known.entry_index = shown.entry_index
    limit 1
  ) last
) reached
cross join {as_json}
  from (
    select known.*, true as fits, false as is_cut_off,
      row_number() over (order by known.effective_at, known.position, known.entry_index) as number
    from (
      select * from {late_events} late order by late.effective_at, late.position
      limit %(entries_max)s::bigint + 1 -- of the first all may have been shown
    ) event
    cross join lateral (
      select * from {schema}.entries known
      where known.ledger = %(ledger)s and known.address = changed.address and known.asset = changed.asset
        and known.position = event.position and known.kind in ('posted', 'captured')
      order by known.position, known.entry_index
      limit 10000 -- more than an event has: looked up by its whole key, whatever the planner believes
    ) known
    where (known.effective_at, known.position, known.entry_index)
      > (reached.effective_at, shown.position, shown.entry_index)
    order by known.effective_at, known.position, known.entry_index
    limit %(entries_max)s::bigint
  ) entry
)

-- name: changes
-- Of the next accounts those that have changed, each with the next entries that changed it, and where the walk ended.
with recursive {stamp}, {pairs}
select {stamped}, found.*
from stamp
left join lateral (
  with changed as materialized (
    select
      pair.address, pair.asset, terms.normal_balance, coalesce(before.posted_debits, 0) as debits_before,
      coalesce(before.posted_credits, 0) as credits_before, after.posted_debits as debits_after,
      after.posted_credits as credits_after
    from pairs pair
    cross join {pair_terms}
    cross join lateral (select stamp.at as seen) until
    cross join {pair_totals} after
    left join lateral (
      select known.* from (select %(from_position)s::bigint as seen) until cross join {pair_totals} known
    ) before on true
    where pair.address ~ %(matching)s
      and (coalesce(before.posted_debits, 0), coalesce(before.posted_credits, 0)) <> (after.posted_debits, after.posted_credits)
    order by pair.number
    limit %(rows_max)s::bigint
  )
  select {change_columns}
  from changed
  cross join {shown_before} shown
  cross join {change_entries} made
  union all
  {changes_end}
) found on stamp.at is not null

-- name: effective_changes
with recursive {both_stamp}, {pairs}
select {stamped}, found.*
from stamp
left join lateral (
  with changed as materialized (
    select
      pair.address, pair.asset, terms.normal_balance, before.debits as debits_before, before.credits as credits_before,
      after.debits as debits_after, after.credits as credits_after
    from pairs pair
    cross join {pair_terms}
    cross join lateral (
      select effective.*
      from (
        select
          %(effective_until)s::timestamptz - interval '1 microsecond' as effective_at,
          %(from_position)s::bigint as position, %(from_position)s::bigint as seen
      ) until
      cross join {effective_totals}
    ) before
    cross join lateral (
      select effective.*
      from (
        select
          %(effective_until)s::timestamptz - interval '1 microsecond' as effective_at, stamp.at as position, stamp.at as seen
      ) until
      cross join {effective_totals}
    ) after
    where pair.address ~ %(matching)s and (before.debits, before.credits) <> (after.debits, after.credits)
    order by pair.number
    limit %(rows_max)s::bigint
  )
  select {change_columns}
  from changed
  cross join {shown_before} shown
  cross join {late_entries} made
  union all
  {changes_end}
) found on stamp.at is not null
