-- The statements of the read side on the books: stamps, ledgers, accounts, balances, entries. Each is one statement and so one
-- snapshot: the live generation, the ledger's position and the rows. Its first columns are the stamp (`stamped`), the others the row.
-- {word} stands for the piece of that name. {schema} is the schema of the generation that the caller believes to be live, {periods}
-- that of the other read model; `schema_name` tells which ones are.
-- A statement named …_{order} is made twice: newest ({before} <, {direction} desc) and oldest (>, asc).

-- name: stamp
-- Of one ledger. `named` is the smallest of the prefixes that were asked for: of the cursor (%(at)s), by position, by recorded time;
-- null: the newest. `at` is null, and there are no rows, where the read model is behind `needed`. A position that belongs to another
-- incarnation of the log is none. A time is ahead if neither the clock nor the log has come to it.
-- Lateral with a limit: each is one index probe with the whole key, whatever the planner believes. A ledger may have left out events and
-- stand still besides: the first position counts, and of the states (in the order of the alphabet) parked, then skipped, then waiting.
stamp as materialized (
  select seen.*, (
      select dated.recorded_at from daybook.events dated where dated.ledger = %(ledger)s and dated.position = seen.at
    ) as as_of_recorded_at
  from (
    select
      generation.schema_name, generation.generation::text as generation, log.incarnation, log.head,
      coalesce(reached.position, 0) as reached,
      case when reached.position >= asked.needed then coalesce(asked.named, reached.position) end as at,
      standstill.state, standstill.since, standstill.position as stuck_position, {asked_columns}
    from projections.live
    cross join lateral (
      select known.generation, known.schema_name from projections.generations known
      where known.projection = 'books' and known.generation = live.generation limit 1
    ) generation
    {log_asked}
    left join lateral (
      select known.position from projections.positions known
      where known.projection = 'books' and known.generation = live.generation and known.ledger = %(ledger)s
        and known.incarnation = log.incarnation limit 1
    ) reached on true
    left join lateral (
      select min(known.state) as state, min(known.since) as since, min(known.position) as position
      from projections.standstills known
      where known.projection = 'books' and known.generation = live.generation and known.ledger = %(ledger)s
    ) standstill on true
    where live.projection = 'books'
  ) seen
)

-- name: both_stamp
-- The same for a question that needs the periods too: as far as both have come. A model without a position has not come anywhere
-- (least() would pass the null over).
stamp as materialized (
  select seen.*, (
      select dated.recorded_at from daybook.events dated where dated.ledger = %(ledger)s and dated.position = seen.at
    ) as as_of_recorded_at
  from (
    select
      generation.schema_name || ' ' || other.schema_name as schema_name,
      generation.generation || '.' || other.generation as generation, log.incarnation, log.head,
      both_reached.position as reached,
      case when both_reached.position >= asked.needed then coalesce(asked.named, both_reached.position) end as at,
      least(standstill.state, other_standstill.state) as state,
      least(standstill.since, other_standstill.since) as since,
      least(standstill.position, other_standstill.position) as stuck_position, {asked_columns}
    from projections.live
    cross join lateral (
      select known.generation, known.schema_name from projections.generations known
      where known.projection = 'books' and known.generation = live.generation limit 1
    ) generation
    cross join lateral (
      select known.generation from projections.live known where known.projection = 'periods' limit 1
    ) other_live
    cross join lateral (
      select known.generation, known.schema_name from projections.generations known
      where known.projection = 'periods' and known.generation = other_live.generation limit 1
    ) other
    {log_asked}
    left join lateral (
      select known.position from projections.positions known
      where known.projection = 'books' and known.generation = live.generation and known.ledger = %(ledger)s
        and known.incarnation = log.incarnation limit 1
    ) reached on true
    left join lateral (
      select known.position from projections.positions known
      where known.projection = 'periods' and known.generation = other_live.generation and known.ledger = %(ledger)s
        and known.incarnation = log.incarnation limit 1
    ) other_reached on true
    cross join lateral (
      select least(coalesce(reached.position, 0), coalesce(other_reached.position, 0)) as position
    ) both_reached
    left join lateral (
      select min(known.state) as state, min(known.since) as since, min(known.position) as position
      from projections.standstills known
      where known.projection = 'books' and known.generation = live.generation and known.ledger = %(ledger)s
    ) standstill on true
    left join lateral (
      select min(known.state) as state, min(known.since) as since, min(known.position) as position
      from projections.standstills known
      where known.projection = 'periods' and known.generation = other_live.generation and known.ledger = %(ledger)s
    ) other_standstill on true
    where live.projection = 'books'
  ) seen
)

-- name: asked_columns
asked.needed, asked.is_fixed,
    coalesce(
      greatest(%(at_time)s::timestamptz, %(begins_at)s::timestamptz) > greatest(clock_timestamp(), log.recorded_at), false
    ) as is_ahead

-- name: log_asked
cross join lateral (
    select known.incarnation, head.position as head, head.recorded_at
    from daybook.incarnation known
    left join lateral (
      select ledger.position, ledger.recorded_at from daybook.ledgers ledger where ledger.ledger = %(ledger)s limit 1
    ) head on true
    where known.is_only limit 1
  ) log
  cross join lateral (
    select case when %(at_time)s::timestamptz is not null then daybook.position_as_of(%(ledger)s, %(at_time)s) end as position
    offset 0 -- a fence: searched once, not once for each use
  ) timed
  cross join lateral (
    select
      least(%(at)s::bigint, %(at_position)s::bigint, timed.position) as named,
      greatest(%(wanted)s::bigint, least(%(at)s::bigint, %(at_position)s::bigint, timed.position)) as needed,
      coalesce(%(at)s::bigint, %(at_position)s::bigint) is not null or coalesce(timed.position < log.head, false) as is_fixed
  ) asked

-- name: stamped
stamp.schema_name, stamp.incarnation::text, stamp.generation, stamp.head, stamp.reached, stamp.at, stamp.as_of_recorded_at,
  stamp.state, stamp.since, stamp.stuck_position, stamp.needed, stamp.is_fixed, stamp.is_ahead

-- name: stamp_alone
with {stamp}
select {stamped}, null as nothing
from stamp

-- name: both_stamp_alone
with {both_stamp}
select {stamped}, null as nothing
from stamp

-- name: live
-- Which generations answer: the schema of the books, and that of the periods where there is one.
select
  books.schema_name || coalesce(' ' || (
    select known.schema_name
    from projections.live other
    join projections.generations known on known.projection = other.projection and known.generation = other.generation
    where other.projection = 'periods'
  ), '')
from projections.live
join projections.generations books on books.projection = live.projection and books.generation = live.generation
where live.projection = 'books'

-- name: ledger_columns
version.ledger, version.opened_at, version.status, version.accounts, version.defaults, version.records_refusals,
    version.time_zone, version.metadata

-- name: ledgers
-- Ledgers by name; the stamp is of no ledger, since each has a position of its own.
with {stamp}
select {stamped}, found.*
from stamp
left join lateral (
  select {ledger_columns}, reached.position, reached.recorded_at, standstill.state, standstill.since,
    standstill.position as stuck_position
  from {schema}.ledgers opened
  cross join lateral (
    select known.position, known.recorded_at from projections.positions known
    where known.projection = 'books' and known.generation = stamp.generation::integer and known.ledger = opened.ledger
      and known.incarnation = stamp.incarnation limit 1
  ) reached
  cross join lateral (
    select * from {schema}.ledgers known where known.ledger = opened.ledger order by known.position desc limit 1
  ) version
  left join lateral (
    select min(known.state) as state, min(known.since) as since, min(known.position) as position
    from projections.standstills known
    where known.projection = 'books' and known.generation = stamp.generation::integer and known.ledger = opened.ledger
  ) standstill on true
  where opened.ledger > %(after)s and opened.position = 1 and opened.ledger ~ any(%(patterns)s::text[])
  order by opened.ledger
  limit %(limit)s::bigint
) found on true
order by found.ledger

-- name: ledger
with {stamp}
select {stamped}, found.*
from stamp
left join lateral (
  select {ledger_columns}, stamp.at as position, reached.recorded_at, stamp.state, stamp.since, stamp.stuck_position
  from (
    select * from {schema}.ledgers known
    where known.ledger = %(ledger)s and known.position <= stamp.at order by known.position desc limit 1
  ) version
  cross join lateral (
    select known.recorded_at from daybook.events known
    where known.ledger = version.ledger and known.position = stamp.at limit 1
  ) reached
) found on true

-- name: account_columns
version.address, version.normal_balance, version.status, version.frozen, version.limits, version.metadata,
    version.on_first_use, version.opened_at, version.opened_position, version.position

-- name: account
with {stamp}
select {stamped}, found.*
from stamp
left join lateral (
  select {account_columns}
  from {schema}.accounts version
  where version.ledger = %(ledger)s and version.address = %(address)s and version.position <= stamp.at
  order by version.position desc limit 1
) found on true

-- name: known_account
lateral (
  select version.address, version.normal_balance from {schema}.accounts version
  where version.ledger = %(ledger)s and version.address = %(address)s and version.position <= stamp.at
  order by version.position desc limit 1
) account

-- name: assets
-- The assets that an account ever had an entry in: one index probe each, however many entries there are.
assets as (
  (
    select first.asset from {schema}.entries first
    where first.ledger = %(ledger)s and first.address = %(address)s order by first.asset limit 1
  )
  union all
  select next.asset from assets
  cross join lateral (
    select later.asset from {schema}.entries later
    where later.ledger = %(ledger)s and later.address = %(address)s and later.asset > assets.asset
    order by later.asset limit 1
  ) next
)

-- name: balances
with recursive {stamp}, {assets}
select {stamped}, account.address, account.normal_balance, total.*
from stamp
left join {known_account} on true
left join lateral (
  select assets.asset, last.posted_debits, last.posted_credits, last.pending_debits, last.pending_credits
  from assets
  cross join lateral (
    select entry.posted_debits, entry.posted_credits, entry.pending_debits, entry.pending_credits
    from {schema}.entries entry
    where entry.ledger = %(ledger)s and entry.address = %(address)s and entry.asset = assets.asset
      and entry.position <= stamp.at
    order by entry.position desc, entry.entry_index desc limit 1
  ) last
) total on account.address is not null
order by total.asset

-- name: effective_balances
-- What was posted and is effective by then: `pair` and `until` are what the piece asks for.
with recursive {both_stamp}, {assets}
select {stamped}, account.address, account.normal_balance, total.*
from stamp
left join {known_account} on true
left join lateral (
  select pair.asset, effective.debits, effective.credits, null::numeric as pending_debits, null::numeric as pending_credits
  from (select %(address)s::text as address, assets.asset from assets) pair
  cross join lateral (
    select %(effective_at)s::timestamptz as effective_at, stamp.at as position, stamp.at as seen
  ) until
  cross join {effective_totals}
  where effective.is_there
) total on account.address is not null
order by total.asset

-- name: entry_columns
merged.position, merged.entry_index, merged.kind, merged.transaction_id, merged.direction, merged.amount, merged.asset,
    merged.effective_at, merged.recorded_at,
    merged.posted_debits, merged.posted_credits, merged.pending_debits, merged.pending_credits

-- An index scan begins at one bound only, so a list has one on the side where it begins: the page's and that of `at` in one.
-- name: entries_seen_newest
(entry.position, entry.entry_index) < (
        least(%(after_position)s::bigint, stamp.at + 1),
        case when %(after_position)s::bigint > stamp.at then 0 else %(after_index)s::bigint end
      )

-- name: entries_seen_oldest
entry.position <= stamp.at and (entry.position, entry.entry_index) > (%(after_position)s::bigint, %(after_index)s::bigint)

-- name: entries_{order}
with recursive {stamp}, {assets}
select {stamped}, account.address, account.normal_balance, found.*
from stamp
left join {known_account} on true
left join lateral (
  select {entry_columns}
  from assets
  cross join lateral (
    select * from {schema}.entries entry
    where entry.ledger = %(ledger)s and entry.address = %(address)s and entry.asset = assets.asset
      and {entries_seen_{order}}
    order by entry.position {direction}, entry.entry_index {direction}
    limit %(limit)s::bigint
  ) merged
  where %(asset)s::text is null or assets.asset = %(asset)s
  order by merged.position {direction}, merged.entry_index {direction}
  limit %(limit)s::bigint
) found on account.address is not null
order by found.position {direction}, found.entry_index {direction}

-- name: effective_seen_newest
(known.effective_at, known.position)
              <= (least(%(after_time)s::timestamptz, %(effective_at)s::timestamptz), %(after_position)s::bigint)

-- name: effective_seen_oldest
known.effective_at <= %(effective_at)s::timestamptz
            and (known.effective_at, known.position)
              >= (coalesce(%(after_time)s::timestamptz, '-infinity'), %(after_position)s::bigint)

-- name: effective_entries_{order}
-- What was posted and is effective by then, in the order of effective time: timely events and untimely ones, merged.
with recursive {both_stamp}, {assets}
select {stamped}, account.address, account.normal_balance, found.*
from stamp
left join {known_account} on true
left join lateral (
  select {entry_columns}
  from (
    select event.asset, event.effective_at, event.position
    from assets
    cross join lateral (
      select assets.asset, either.effective_at, either.position
      from (
        (
          select known.effective_at, known.position from {periods}.timely known
          where known.ledger = %(ledger)s and known.address = %(address)s and known.asset = assets.asset
            and known.position <= stamp.at and {effective_seen_{order}}
          order by known.effective_at {direction}, known.position {direction} limit %(limit)s::bigint + 1
        )
        union all
        (
          select known.effective_at, known.position
          from (select *, begins_at as effective_at from {periods}.untimely) known
          where known.ledger = %(ledger)s and known.address = %(address)s and known.asset = assets.asset
            and known.span = 'instant' and known.position <= stamp.at and {effective_seen_{order}}
          order by known.effective_at {direction}, known.position {direction} limit %(limit)s::bigint + 1
        )
      ) either
      order by either.effective_at {direction}, either.position {direction}
      limit %(limit)s::bigint + 1 -- of the first all may have been shown
    ) event
    where %(asset)s::text is null or assets.asset = %(asset)s
    order by event.effective_at {direction}, event.position {direction}
    limit %(limit)s::bigint + (select count(*) from assets) -- the first may have been shown in every asset
  ) event
  cross join lateral (
    select * from {schema}.entries known
    where known.ledger = %(ledger)s and known.address = %(address)s and known.asset = event.asset
      and known.position = event.position and known.kind in ('posted', 'captured')
    order by known.position, known.entry_index
    limit 10000 -- more than an event has: looked up by its whole key, whatever the planner believes
  ) merged
  where (merged.effective_at, merged.position, merged.entry_index)
    {before} (coalesce(%(after_time)s::timestamptz, '{edge}'), %(after_position)s::bigint, %(after_index)s::bigint)
  order by merged.effective_at {direction}, merged.position {direction}, merged.entry_index {direction}
  limit %(limit)s::bigint
) found on account.address is not null
order by found.effective_at {direction}, found.position {direction}, found.entry_index {direction}
