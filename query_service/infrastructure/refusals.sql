-- What the rules turned down, and the state it was judged on. Walks one index and stops after `walk_max`, as in search.sql.

-- name: refusals_begin
{within}
select {stamped}, found.*
from stamp
left join lateral (
  select * from (
    select
      walk.position as walked_to, refusal.position is not null and ({condition}) as fits, refusal.position,
      refusal.recorded_at, refusal.code, refusal.command, refusal.transaction_id, refusal.accounts, refusal.fields,
      refusal.asked, refusal.judged_at, refusal.actor, refusal.correlation_id, refusal.key, walk.number
    from (
      select met.position, row_number() over (order by met.position {direction}) as number
      from (

-- name: refusals_end
      ) met
    ) walk
    left join lateral (
      select * from {schema}.refusals known -- a range of one, as in search.sql
      where known.ledger = %(ledger)s and known.position between walk.position and walk.position
      order by known.position limit 1
    ) refusal on true
  ) looked
  where looked.fits or looked.number = %(walk_max)s::bigint
  order by looked.walked_to {direction}
  limit %(limit)s::bigint
) found on true
order by found.walked_to {direction}

-- name: refusals_in_order
position > (select bounds.low from bounds) and known.position <= (select bounds.high from bounds) and known.position {before} %(after_position)s::bigint
          order by known.position {direction}
          limit %(walk_max)s::bigint

-- name: refusals_{order}
{refusals_begin}
        select known.position from {schema}.refusals known
        where known.ledger = %(ledger)s and known.{refusals_in_order}
{refusals_end}

-- name: refusals_by_code_{order}
{refusals_begin}
        select known.position from {schema}.refusals known
        where known.ledger = %(ledger)s and known.code = %(indexed)s and known.{refusals_in_order}
{refusals_end}

-- name: refusals_by_caller_{order}
{refusals_begin}
        select known.position from {schema}.refusals known
        where known.ledger = %(ledger)s and known.actor = %(indexed)s and known.{refusals_in_order}
{refusals_end}

-- name: refusals_by_account_{order}
-- The log's own tag finds those that looked at an account.
{refusals_begin}
        select known.position from daybook.event_tags known
        where known.ledger = %(ledger)s and known.tag = %(indexed)s and known.{refusals_in_order}
{refusals_end}

-- name: judged
-- The accounts that refusals looked at, each as it was at the position that its refusal was judged at.
with {stamp}
select {stamped}, found.*
from stamp
left join lateral (
  select listed.number, listed.address, version.normal_balance, version.status, version.frozen, version.limits, balance.asset,
    balance.posted_debits, balance.posted_credits, balance.pending_debits, balance.pending_credits
  from unnest(%(addresses)s::text[], %(positions)s::bigint[]) with ordinality as listed (address, judged_at, number)
  left join lateral (
    select * from {schema}.accounts known
    where known.ledger = %(ledger)s and known.address = listed.address and known.position <= listed.judged_at
    order by known.position desc limit 1
  ) version on true
  left join lateral (
    select pair.asset, total.*
    from {assets_of_listed} pair
    cross join lateral (select listed.judged_at as seen) until
    cross join {pair_totals} total
    limit %(assets_max)s::bigint
  ) balance on true
) found on stamp.at is not null
order by found.number, found.asset
