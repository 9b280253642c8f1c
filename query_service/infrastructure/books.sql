-- The statements of the read side on the books. Each is one statement and so one snapshot: the live generation, the
-- ledger's position and the rows. Its first nine columns are the stamp (`stamped`), the others are the row.
-- {word} stands for the piece of that name. {schema} is the schema of the generation that the caller believes to be live;
-- `schema_name` tells which one is.
-- A statement named …_{order} is made twice: newest ({before} <, {direction} desc) and oldest (>, asc).

-- name: stamp
-- Of one ledger. `at` is null, and there are no rows, where the read model is behind `wanted`. A position that belongs to another
-- incarnation of the log is none. Lateral with a limit: each is one index probe with the whole key, whatever the planner believes.
stamp as materialized (
  select
    generation.generation, generation.schema_name, log.incarnation, log.head,
    coalesce(reached.position, 0) as reached,
    case when reached.position >= %(wanted)s::bigint then coalesce(%(at)s::bigint, reached.position) end as at,
    standstill.state, standstill.since, standstill.position as stuck_position
  from projections.live
  cross join lateral (
    select known.generation, known.schema_name from projections.generations known
    where known.projection = 'books' and known.generation = live.generation limit 1
  ) generation
  cross join lateral (
    select
      known.incarnation,
      (select ledger.position from daybook.ledgers ledger where ledger.ledger = %(ledger)s) as head
    from daybook.incarnation known where known.is_only limit 1
  ) log
  left join lateral (
    select known.position from projections.positions known
    where known.projection = 'books' and known.generation = live.generation and known.ledger = %(ledger)s
      and known.incarnation = log.incarnation limit 1
  ) reached on true
  left join lateral (
    select known.state, known.since, known.position from projections.waiting known
    where known.projection = 'books' and known.generation = live.generation and known.ledger = %(ledger)s limit 1
  ) standstill on true
  where live.projection = 'books'
)

-- name: stamped
stamp.schema_name, stamp.incarnation::text, stamp.head, stamp.reached, stamp.at, (
    select dated.recorded_at from daybook.events dated where dated.ledger = %(ledger)s and dated.position = stamp.at
  ) as as_of_recorded_at, stamp.state, stamp.since, stamp.stuck_position

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

-- name: known_account
lateral (
  select version.address, version.normal_balance from {schema}.accounts version
  where version.ledger = %(ledger)s and version.address = %(address)s and version.position <= stamp.at
  order by version.position desc limit 1
) account

-- name: live
-- Which generation answers.
select generations.schema_name
from projections.live
join projections.generations on generations.projection = live.projection and generations.generation = live.generation
where live.projection = 'books'

-- name: ledgers
-- Ledgers by name; the stamp is of no ledger, since each has a position of its own.
with {stamp}
select {stamped}, found.*
from stamp
left join lateral (
  select
    opened.ledger, opened.recorded_at as opened_at, opened.accounts, opened.defaults, opened.records_refusals,
    opened.metadata, reached.position, reached.recorded_at, standstill.state, standstill.since,
    standstill.position as stuck_position
  from {schema}.ledgers opened
  cross join lateral (
    select known.position, known.recorded_at from projections.positions known
    where known.projection = 'books' and known.generation = stamp.generation and known.ledger = opened.ledger
      and known.incarnation = stamp.incarnation limit 1
  ) reached
  left join lateral (
    select known.state, known.since, known.position from projections.waiting known
    where known.projection = 'books' and known.generation = stamp.generation and known.ledger = opened.ledger limit 1
  ) standstill on true
  where opened.ledger > %(after)s and opened.ledger ~ any(%(patterns)s::text[])
  order by opened.ledger
  limit %(limit)s::bigint
) found on true
order by found.ledger

-- name: ledger
with {stamp}
select {stamped}, found.*
from stamp
left join lateral (
  select
    opened.ledger, opened.recorded_at as opened_at, opened.accounts, opened.defaults, opened.records_refusals,
    opened.metadata, stamp.reached as position, reached.recorded_at, stamp.state, stamp.since, stamp.stuck_position
  from {schema}.ledgers opened
  cross join lateral (
    select known.recorded_at from daybook.events known
    where known.ledger = opened.ledger and known.position = stamp.reached limit 1
  ) reached
  where opened.ledger = %(ledger)s and opened.position <= stamp.at
) found on true

-- name: accounts
with {stamp}
select {stamped}, found.*
from stamp
left join lateral (
  select distinct on (version.address)
    version.address, version.normal_balance, version.status, version.limits, version.metadata, version.on_first_use,
    version.opened_at, version.position
  from {schema}.accounts version
  where version.ledger = %(ledger)s and version.position <= stamp.at
    and version.address > %(after)s and version.address >= %(low)s and version.address < %(high)s
    and version.address ~ %(matching)s
  order by version.address, version.position desc
  limit %(limit)s::bigint
) found on true
order by found.address

-- name: account
with {stamp}
select {stamped}, found.*
from stamp
left join lateral (
  select
    version.address, version.normal_balance, version.status, version.limits, version.metadata, version.on_first_use,
    version.opened_at, version.position
  from {schema}.accounts version
  where version.ledger = %(ledger)s and version.address = %(address)s and version.position <= stamp.at
  order by version.position desc limit 1
) found on true

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

-- name: entries_{order}
with recursive {stamp}, {assets}
select {stamped}, account.address, account.normal_balance, found.*
from stamp
left join {known_account} on true
left join lateral (
  select
    merged.position, merged.entry_index, merged.transaction_id, merged.direction, merged.amount, merged.asset,
    merged.effective_at, merged.recorded_at,
    merged.posted_debits, merged.posted_credits, merged.pending_debits, merged.pending_credits
  from assets
  cross join lateral (
    select * from {schema}.entries entry
    where entry.ledger = %(ledger)s and entry.address = %(address)s and entry.asset = assets.asset
      and entry.position <= stamp.at
      and (entry.position, entry.entry_index) {before} (%(after_position)s::bigint, %(after_index)s::bigint)
    order by entry.position {direction}, entry.entry_index {direction}
    limit %(limit)s::bigint
  ) merged
  where %(asset)s::text is null or assets.asset = %(asset)s
  order by merged.position {direction}, merged.entry_index {direction}
  limit %(limit)s::bigint
) found on account.address is not null
order by found.position {direction}, found.entry_index {direction}

-- name: transaction_columns
transaction.transaction_id, transaction.position, transaction.status, transaction.reference, transaction.description,
    transaction.effective_at, transaction.recorded_at, transaction.entries, transaction.metadata, transaction.actor,
    transaction.correlation_id

-- name: transaction
-- A range of one, so that its order counts: only the index by id gives it, and the planner, while the table is empty, would
-- as soon search the ledger by position.
with {stamp}
select {stamped}, found.*
from stamp
left join lateral (
  select {transaction_columns}
  from {schema}.transactions transaction
  where transaction.ledger = %(ledger)s and transaction.transaction_id between %(transaction)s and %(transaction)s
    and transaction.position <= stamp.at
  order by transaction.transaction_id desc, transaction.position desc limit 1
) found on true

-- name: transactions_{order}
with {stamp}
select {stamped}, found.*
from stamp
left join lateral (
  select {transaction_columns}
  from {schema}.transactions transaction
  where transaction.ledger = %(ledger)s and transaction.position <= stamp.at
    and transaction.position {before} %(after_position)s::bigint
  order by transaction.position {direction}
  limit %(limit)s::bigint
) found on true
order by found.position {direction}

-- name: reference_transactions_{order}
-- A range of one reference as in `transaction`.
with recursive {stamp}, {assets}
select {stamped}, found.*
from stamp
left join lateral (
  select {transaction_columns}
  from {schema}.transactions transaction
  where transaction.ledger = %(ledger)s and transaction.reference between %(reference)s and %(reference)s
    and transaction.position <= stamp.at and transaction.position {before} %(after_position)s::bigint
    and (
      %(address)s::text is null
      or exists (
        select from assets
        cross join lateral (
          select from {schema}.entries entry
          where entry.ledger = %(ledger)s and entry.address = %(address)s and entry.asset = assets.asset
            and entry.position = transaction.position
          limit 1
        ) touching
      )
    )
  order by transaction.reference {direction}, transaction.position {direction}
  limit %(limit)s::bigint
) found on true
order by found.position {direction}

-- name: account_transactions_{order}
with recursive {stamp}, {assets}
select {stamped}, found.*
from stamp
left join lateral (
  select {transaction_columns}
  from (
    select distinct touched.position
    from assets
    cross join lateral (
      select distinct entry.position from {schema}.entries entry
      where entry.ledger = %(ledger)s and entry.address = %(address)s and entry.asset = assets.asset
        and entry.position <= stamp.at and entry.position {before} %(after_position)s::bigint
      order by entry.position {direction}
      limit %(limit)s::bigint
    ) touched
    order by touched.position {direction}
    limit %(limit)s::bigint
  ) touching
  cross join lateral (
    select * from {schema}.transactions version
    where version.ledger = %(ledger)s and version.position = touching.position limit 1
  ) transaction
) found on true
order by found.position {direction}

-- name: trial_balance
-- One index probe to find each account's asset, one for its totals: what it costs depends on accounts, not on history.
with recursive {stamp}, pairs as (
  (
    select first.address, first.asset from {schema}.entries first
    where first.ledger = %(ledger)s order by first.address, first.asset limit 1
  )
  union all
  select next.address, next.asset from pairs
  cross join lateral (
    select later.address, later.asset from {schema}.entries later
    where later.ledger = %(ledger)s and (later.address, later.asset) > (pairs.address, pairs.asset)
    order by later.address, later.asset limit 1
  ) next
)
select {stamped}, total.*
from stamp
left join lateral (
  select
    pairs.asset, sum(last.posted_debits) as debits, sum(last.posted_credits) as credits, count(*) as accounts
  from pairs
  cross join lateral (
    select entry.posted_debits, entry.posted_credits from {schema}.entries entry
    where entry.ledger = %(ledger)s and entry.address = pairs.address and entry.asset = pairs.asset
      and entry.position <= stamp.at
    order by entry.position desc, entry.entry_index desc limit 1
  ) last
  group by pairs.asset
) total on true
order by total.asset
