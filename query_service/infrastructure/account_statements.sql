-- One account and asset through time: statements by recorded and by effective time, and a balance explained. Places as in books.sql.

-- name: pair
(select %(address)s::text as address, %(asset)s::text as asset) pair

-- name: entry_texts
-- What its transaction says beside.
lateral (
    select known.reference, known.description from {schema}.transactions known
    where known.ledger = %(ledger)s and known.transaction_id = entry.transaction_id and known.position <= stamp.at
    order by known.position desc limit 1
  ) said

-- name: statement_columns
entry.position as walked_to, entry.fits, entry.position, entry.entry_index, entry.kind, entry.transaction_id, entry.direction,
  entry.amount, entry.asset, entry.effective_at, entry.recorded_at, entry.posted_debits, entry.posted_credits,
  said.reference, said.description, entry.number

-- name: period
-- From which position to which a time of the record goes until before another.
period as materialized (
  select
    case when %(from_time)s::timestamptz is null then 0
      else least(stamp.at, daybook.position_as_of(%(ledger)s, %(from_time)s::timestamptz - interval '1 microsecond')) end as low,
    case when %(until_time)s::timestamptz is null then stamp.at
      else least(stamp.at, daybook.position_as_of(%(ledger)s, %(until_time)s::timestamptz - interval '1 microsecond')) end as high
  from stamp
)

-- name: period_entries
-- The next posted entries of the period in the order of the log, with what the walk came to.
(
    select * from (
      select walk.*, walk.kind in ('posted', 'captured') and (
          %(effective_at)s::timestamptz is null or walk.effective_at <= %(effective_at)s
        ) as fits, row_number() over (order by walk.position, walk.entry_index) as number
      from (
        select * from {schema}.entries known
        where known.ledger = %(ledger)s and known.address = %(address)s and known.asset = %(asset)s
          and known.position <= period.high
          and (known.position, known.entry_index) > (
            greatest(period.low, %(after_position)s::bigint), -- one bound to begin at, as in books.sql
            case when %(after_position)s::bigint > period.low then %(after_index)s::bigint else 2147483647 end
          )
        order by known.position, known.entry_index
        limit %(walk_max)s::bigint
      ) walk
    ) looked
    where looked.fits or looked.number = %(walk_max)s::bigint
    order by looked.position, looked.entry_index
    limit %(limit)s::bigint
  ) entry

-- name: statement
-- By recorded time: what was posted after the opening position, up to the closing one. Each row brings the totals at both.
with {stamp}, {period}
select {stamped}, account.address, account.normal_balance, coalesce(opening.posted_debits, 0), coalesce(opening.posted_credits, 0),
  coalesce(closing.posted_debits, 0), coalesce(closing.posted_credits, 0), 0 as debits_before, 0 as credits_before, found.*
from stamp
left join {known_account} on true
left join period on true
left join lateral (
  select total.* from {pair} cross join lateral (select period.low as seen) until cross join {pair_totals} total
) opening on true
left join lateral (
  select total.* from {pair} cross join lateral (select period.high as seen) until cross join {pair_totals} total
) closing on true
left join lateral (
  select {statement_columns}
  from {period_entries}
  cross join {entry_texts}
) found on account.address is not null
order by found.walked_to, found.entry_index

-- name: dated_statement
-- By recorded time, of what was effective by a time only. The totals at both ends and before the page are those by effective time.
with recursive {both_stamp}, {period}
select {stamped}, account.address, account.normal_balance, coalesce(opening.debits, 0), coalesce(opening.credits, 0),
  coalesce(closing.debits, 0), coalesce(closing.credits, 0), coalesce(before.debits, 0), coalesce(before.credits, 0), found.*
from stamp
left join {known_account} on true
left join period on true
left join lateral (
  select effective.* from {pair} cross join lateral (
    select %(effective_at)s::timestamptz as effective_at, period.low as position, period.low as seen
  ) until cross join {effective_totals}
) opening on true
left join lateral (
  select effective.* from {pair} cross join lateral (
    select %(effective_at)s::timestamptz as effective_at, period.high as position, period.high as seen
  ) until cross join {effective_totals}
) closing on true
left join lateral (
  -- Up to the event that the last page ended in, and of that event what the last page has shown.
  select effective.debits + coalesce(shown.debits, 0) as debits, effective.credits + coalesce(shown.credits, 0) as credits
  from {pair} cross join lateral (
    select greatest(period.low, %(after_position)s::bigint - 1) as seen
  ) reached
  cross join lateral (select %(effective_at)s::timestamptz as effective_at, reached.seen as position, reached.seen as seen) until
  cross join {effective_totals}
  cross join lateral (
    select
      sum(known.amount) filter (where known.direction = 'debit') as debits,
      sum(known.amount) filter (where known.direction = 'credit') as credits
    from {schema}.entries known
    where known.ledger = %(ledger)s and known.address = %(address)s and known.asset = %(asset)s
      and known.position = %(after_position)s::bigint and known.entry_index <= %(after_index)s::bigint
      and known.kind in ('posted', 'captured') and known.effective_at <= %(effective_at)s
  ) shown
) before on true
left join lateral (
  select {statement_columns}
  from {period_entries}
  cross join {entry_texts}
) found on account.address is not null
order by found.walked_to, found.entry_index

-- name: effective_statement
-- By effective time: what was posted and is effective from a time until before another, as far as is known at `at`.
-- debits_before, credits_before: of all that stands before the first row of this page.
with recursive {both_stamp}, ends as materialized (
  select
    coalesce(%(from_time)s::timestamptz, '-infinity') as low,
    coalesce(%(until_time)s::timestamptz, 'infinity') - interval '1 microsecond' as high,
    greatest(coalesce(%(from_time)s::timestamptz, '-infinity'), %(after_time)s::timestamptz) as begin
)
select {stamped}, account.address, account.normal_balance, coalesce(opening.debits, 0), coalesce(opening.credits, 0),
  coalesce(closing.debits, 0), coalesce(closing.credits, 0), coalesce(before.debits, 0), coalesce(before.credits, 0), found.*
from stamp
left join {known_account} on true
cross join ends
left join lateral (
  select effective.*
  from {pair} cross join lateral (
    select least(ends.low - interval '1 microsecond', ends.high) as effective_at, stamp.at as position, stamp.at as seen
  ) until
  cross join {effective_totals}
) opening on true
left join lateral (
  select effective.*
  from {pair} cross join lateral (select ends.high as effective_at, stamp.at as position, stamp.at as seen) until
  cross join {effective_totals}
) closing on true
left join lateral (
  -- Everything before the event that the last page ended in, and of that event what the last page has shown.
  select effective.debits + coalesce(shown.debits, 0) as debits, effective.credits + coalesce(shown.credits, 0) as credits
  from {pair} cross join lateral (
    select ends.begin as effective_at, %(after_position)s::bigint - 1 as position, stamp.at as seen
  ) until
  cross join {effective_totals}
  cross join lateral (
    select
      sum(known.amount) filter (where known.direction = 'debit') as debits,
      sum(known.amount) filter (where known.direction = 'credit') as credits
    from {schema}.entries known
    where known.ledger = %(ledger)s and known.address = %(address)s and known.asset = %(asset)s
      and known.position = %(after_position)s::bigint and known.entry_index <= %(after_index)s::bigint
      and known.kind in ('posted', 'captured')
  ) shown
) before on true
left join lateral (
  select {statement_columns}
  from (
    select known.*, true as fits, 0::bigint as number
    from (
      select * from (
        (
          select known.effective_at, known.position from {periods}.timely known
          where known.ledger = %(ledger)s and known.address = %(address)s and known.asset = %(asset)s
            and (known.effective_at, known.position) >= (ends.begin, %(after_position)s::bigint)
            and known.effective_at <= ends.high and known.position <= stamp.at
          order by known.effective_at, known.position limit %(limit)s::bigint + 1
        )
        union all
        (
          select known.begins_at, known.position from {periods}.untimely known
          where known.ledger = %(ledger)s and known.address = %(address)s and known.asset = %(asset)s and known.span = 'instant'
            and (known.begins_at, known.position) >= (ends.begin, %(after_position)s::bigint)
            and known.begins_at <= ends.high and known.position <= stamp.at
          order by known.begins_at, known.position limit %(limit)s::bigint + 1
        )
      ) event
      order by event.effective_at, event.position
      limit %(limit)s::bigint + 1 -- of the first all may have been shown
    ) event
    cross join lateral (
      select * from {schema}.entries known
      where known.ledger = %(ledger)s and known.address = %(address)s and known.asset = %(asset)s
        and known.position = event.position and known.kind in ('posted', 'captured')
      order by known.position, known.entry_index
      limit 10000 -- more than an event has: looked up by its whole key, whatever the planner believes
    ) known
    where (known.effective_at, known.position, known.entry_index)
      > (ends.begin, %(after_position)s::bigint, %(after_index)s::bigint)
    order by known.effective_at, known.position, known.entry_index
    limit %(limit)s::bigint
  ) entry
  cross join {entry_texts}
) found on account.address is not null
order by found.effective_at, found.walked_to, found.entry_index

-- name: explanation
-- The events that moved an account in an asset, oldest first, each as the log has it, with the totals just after it.
with {stamp}
select {stamped}, account.address, account.normal_balance, coalesce(opening.posted_debits, 0), coalesce(opening.posted_credits, 0),
  coalesce(opening.pending_debits, 0), coalesce(opening.pending_credits, 0), coalesce(closing.posted_debits, 0),
  coalesce(closing.posted_credits, 0), coalesce(closing.pending_debits, 0), coalesce(closing.pending_credits, 0), found.*
from stamp
left join {known_account} on true
left join lateral (
  select total.* from {pair} cross join lateral (select least(stamp.at, %(after_position)s::bigint) as seen) until
  cross join {pair_totals} total
) opening on true
left join lateral (
  select total.* from {pair} cross join lateral (select stamp.at as seen) until cross join {pair_totals} total
) closing on true
left join lateral (
  select met.position, event.type, event.recorded_at, event.metadata, event.data, total.posted_debits, total.posted_credits,
    total.pending_debits, total.pending_credits, last.effective_at
  from (
    select distinct known.position from {schema}.entries known
    where known.ledger = %(ledger)s and known.address = %(address)s and known.asset = %(asset)s
      and known.position > %(after_position)s::bigint and known.position <= stamp.at
    order by known.position
    limit %(limit)s::bigint
  ) met
  cross join lateral (
    select * from daybook.events known where known.ledger = %(ledger)s and known.position = met.position limit 1
  ) event
  cross join lateral (
    select * from {schema}.entries known
    where known.ledger = %(ledger)s and known.address = %(address)s and known.asset = %(asset)s
      and known.position = met.position
    order by known.position desc, known.entry_index desc limit 1
  ) last
  cross join lateral (
    select last.posted_debits, last.posted_credits, last.pending_debits, last.pending_credits
  ) total
) found on account.address is not null
order by found.position

-- name: effective_explanation
-- The events that posted to an account in an asset and are effective by a time, in the order of effective time, each as the log has it,
-- with the totals by effective time just after it. An event is timely or untimely, so that it comes once.
with recursive {both_stamp}
select {stamped}, account.address, account.normal_balance, coalesce(opening.debits, 0), coalesce(opening.credits, 0),
  null::numeric, null::numeric, coalesce(closing.debits, 0), coalesce(closing.credits, 0), null::numeric, null::numeric, found.*
from stamp
left join {known_account} on true
left join lateral (
  select effective.* from {pair} cross join lateral (
    select coalesce(%(after_time)s::timestamptz, '-infinity') as effective_at, %(after_position)s::bigint as position, stamp.at as seen
  ) until
  cross join {effective_totals}
) opening on true
left join lateral (
  select effective.* from {pair} cross join lateral (
    select %(effective_at)s::timestamptz as effective_at, stamp.at as position, stamp.at as seen
  ) until
  cross join {effective_totals}
) closing on true
left join lateral (
  select until.position, event.type, event.recorded_at, event.metadata, event.data, effective.debits, effective.credits,
    null::numeric as pending_debits, null::numeric as pending_credits, until.effective_at
  from (
    select met.effective_at, met.position, stamp.at as seen
    from (
      (
        select known.effective_at, known.position from {periods}.timely known
        where known.ledger = %(ledger)s and known.address = %(address)s and known.asset = %(asset)s
          and (known.effective_at, known.position) > (coalesce(%(after_time)s::timestamptz, '-infinity'), %(after_position)s::bigint)
          and known.effective_at <= %(effective_at)s::timestamptz and known.position <= stamp.at
        order by known.effective_at, known.position limit %(limit)s::bigint
      )
      union all
      (
        select known.effective_at, known.position from (select *, begins_at as effective_at from {periods}.untimely) known
        where known.ledger = %(ledger)s and known.address = %(address)s and known.asset = %(asset)s and known.span = 'instant'
          and (known.effective_at, known.position) > (coalesce(%(after_time)s::timestamptz, '-infinity'), %(after_position)s::bigint)
          and known.effective_at <= %(effective_at)s::timestamptz and known.position <= stamp.at
        order by known.effective_at, known.position limit %(limit)s::bigint
      )
    ) met
    order by met.effective_at, met.position
    limit %(limit)s::bigint
  ) until
  cross join lateral (
    select * from daybook.events known where known.ledger = %(ledger)s and known.position = until.position limit 1
  ) event
  cross join {pair}
  cross join {effective_totals}
) found on account.address is not null
order by found.effective_at, found.position
