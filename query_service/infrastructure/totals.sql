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
-- The next accounts and assets that ever had an entry, in the order of addresses, up to a number: one index probe each. `after`
-- is not before the first address that is wanted: the scan has no other bound to begin at.
pairs as (
  (
    select first.address, first.asset, 1::bigint as number from {schema}.entries first
    where first.ledger = %(ledger)s and (first.address, first.asset) > (%(after)s, %(after_asset)s)
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

-- name: change_rows
-- Of the next accounts those that have changed, each with the first entries that changed it, and where the walk ended.
select
  false as is_end, changed.address, changed.asset, changed.normal_balance, changed.debits_before, changed.credits_before,
  changed.debits_after, changed.credits_after, made.entries, ''::text as walked_to
from changed
cross join lateral (
  select json_agg(json_build_object(
    'position', entry.position, 'entry_index', entry.entry_index, 'transaction', entry.transaction_id,
    'direction', entry.direction, 'amount', entry.amount, 'effective_at', entry.effective_at, 'recorded_at', entry.recorded_at
  ) order by entry.position, entry.entry_index)::text as entries
  from (
    select * from (
      select * from {schema}.entries known
      where known.ledger = %(ledger)s and known.address = changed.address and known.asset = changed.asset
        and known.position > %(from_position)s::bigint and known.position <= stamp.at
      order by known.position, known.entry_index
      limit %(scan_max)s::bigint
    ) walked
    where walked.kind in ('posted', 'captured')
      and (%(effective_until)s::timestamptz is null or walked.effective_at < %(effective_until)s)
    order by walked.position, walked.entry_index
    limit %(entries_max)s::bigint
  ) entry
) made
union all
select true, null, last.asset, null, last.number, null, null, null, null, last.address
from (select * from pairs order by pairs.number desc limit 1) last

-- name: changes
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
  )
  {change_rows}
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
  )
  {change_rows}
) found on stamp.at is not null
