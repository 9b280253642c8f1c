-- Lists with a filter. Each walks one index in the order of its list, shows each subject in its version as of `at`, and takes
-- those that fit {condition}. After `walk_max` subjects it stops, whatever it has found: the last row may be one that does not
-- fit (`fits` is false), and the list goes on after it. So no filter scans a ledger, and none is refused for being sparse.
-- Rows are counted in the order that their index gives them in, and said to be: so the planner sees that nothing is to be sorted,
-- and a page that is full reads no further.
-- Stamp and places as in books.sql.

-- name: within
-- The recorded times that the filter bounds, as positions.
with recursive {stamp}, bounds as materialized (
  select
    case when %(recorded_from)s::timestamptz is null then 0
      else daybook.position_as_of(%(ledger)s, %(recorded_from)s::timestamptz - interval '1 microsecond') end as low,
    case when %(recorded_until)s::timestamptz is null then stamp.at
      else least(stamp.at, daybook.position_as_of(%(ledger)s, %(recorded_until)s)) end as high
  from stamp
)

-- name: transaction_columns
version.transaction_id, version.created_position, version.created_at, version.status, version.entries,
      version.posted_entries, version.held_entries, version.reference, version.description, version.effective_at,
      version.expires_at, version.metadata, version.reverses, version.reversed_by, version.is_forced, version.actor,
      version.correlation_id, version.position, version.recorded_at

-- name: transaction_version
lateral (
      select * from {schema}.transactions known
      where known.ledger = %(ledger)s and known.transaction_id = walk.transaction_id and known.position <= stamp.at
      order by known.position desc limit 1
    ) version

-- name: birth_of_met
left join lateral (
        select known.transaction_id from {schema}.transactions known
        where known.ledger = %(ledger)s and known.position = known.created_position
          and known.created_position between met.created_position and met.created_position
        order by known.created_position limit 1 -- a range of one, as below
      ) birth on met.transaction_id is null

-- name: list_begins
select {stamped}, found.*
from stamp
left join lateral (
  select * from (
    select
      walk.created_position as walked_to, version.position is not null and ({condition}) as fits, {transaction_columns},
      walk.number
    from (
      select met.created_position, coalesce(met.transaction_id, birth.transaction_id) as transaction_id,
        row_number() over (order by met.created_position {direction}) as number
      from (

-- name: list_ends
      ) met
      {birth_of_met}
    ) walk
    left join {transaction_version} on true
  ) looked
  where looked.fits or looked.number = %(walk_max)s::bigint
  order by looked.walked_to {direction}
  limit %(limit)s::bigint
) found on true
order by found.walked_to {direction}

-- name: births_in_order
created_position > (select bounds.low from bounds) and known.created_position <= (select bounds.high from bounds)
            and known.created_position {before} %(after_birth)s::bigint
          order by known.created_position {direction}
          limit %(walk_max)s::bigint

-- name: transactions_{order}
-- In the order of their births.
{within}
{list_begins}
        select known.created_position, known.transaction_id from {schema}.transactions known
        where known.ledger = %(ledger)s and known.position = known.created_position and known.{births_in_order}
{list_ends}

-- name: identified_births
-- The one with an id, if it fits the rest. A range of one, so that its order counts: only the index by id gives it.
        select known.created_position, known.transaction_id from {schema}.transactions known
        where known.ledger = %(ledger)s and known.transaction_id between %(indexed)s and %(indexed)s
          and known.position <= (select bounds.high from bounds) and known.created_position {before} %(after_birth)s::bigint
        order by known.transaction_id, known.position
        limit 1

-- name: identified_transactions_{order}
{within}
{list_begins}
{identified_births}
{list_ends}

-- name: effective_identified_transactions_{order}
{within}
{effective_list_begins}
{identified_births}
{effective_list_ends}

-- name: referenced_births
-- The one with a reference: a range of one as above.
        select known.created_position, known.transaction_id from {schema}.transactions known
        where known.ledger = %(ledger)s and known.reference between %(indexed)s and %(indexed)s
          and known.reference is not null and known.position = known.created_position
          and known.created_position > (select bounds.low from bounds) and known.created_position <= (select bounds.high from bounds)
          and known.created_position {before} %(after_birth)s::bigint
        order by known.reference {direction}, known.created_position {direction}
        limit %(walk_max)s::bigint

-- name: referenced_transactions_{order}
{within}
{list_begins}
{referenced_births}
{list_ends}

-- name: effective_referenced_transactions_{order}
{within}
{effective_list_begins}
{referenced_births}
{effective_list_ends}

-- name: account_births
-- Those that were born as entries of an account, and those that were scheduled to become some.
        select distinct merged.created_position, null::text as transaction_id
        from (
          select touched.created_position
          from assets
          cross join lateral (
            select distinct known.position as created_position from {schema}.entries known
            where known.ledger = %(ledger)s and known.address = %(address)s and known.asset = assets.asset
              and known.position > (select bounds.low from bounds) and known.position <= (select bounds.high from bounds)
              and known.position {before} %(after_birth)s::bigint
            order by known.position {direction}
            limit %(walk_max)s::bigint
          ) touched
          union all
          (
            select known.created_position from {schema}.scheduled_accounts known
            where known.ledger = %(ledger)s and known.address = %(address)s and known.{births_in_order}
          )
        ) merged
        order by merged.created_position {direction}
        limit %(walk_max)s::bigint

-- name: account_transactions_{order}
{within}, {assets}
{list_begins}
{account_births}
{list_ends}

-- name: effective_account_transactions_{order}
{within}, {assets}
{effective_list_begins}
{account_births}
{effective_list_ends}

-- name: labelled_births
-- Those whose metadata ever had this value under this key.
        select distinct known.created_position, null::text as transaction_id from {schema}.transaction_labels known
        where known.ledger = %(ledger)s and known.key = %(key)s and known.value = %(indexed)s
          and known.{births_in_order}

-- name: labelled_transactions_{order}
{within}
{list_begins}
{labelled_births}
{list_ends}

-- name: effective_labelled_transactions_{order}
{within}
{effective_list_begins}
{labelled_births}
{effective_list_ends}

-- name: either_births
-- Those that one of several ids, references and values of metadata leads to. Each look is in order, so they merge.
        select distinct merged.created_position, null::text as transaction_id
        from unnest(%(kinds)s::text[], %(keys)s::text[], %(indexed)s::text[]) as asked (kind, key, value)
        cross join lateral (
          (
            select known.created_position from {schema}.transactions known
            where asked.kind = 'id' and known.ledger = %(ledger)s and known.transaction_id between asked.value and asked.value
              and known.position <= (select bounds.high from bounds) and known.created_position {before} %(after_birth)s::bigint
            order by known.transaction_id, known.position
            limit 1
          )
          union all
          (
            select known.created_position from {schema}.transactions known
            where asked.kind = 'reference' and known.ledger = %(ledger)s
              and known.reference between asked.value and asked.value
              and known.reference is not null and known.position = known.created_position
              and known.created_position > (select bounds.low from bounds)
              and known.created_position <= (select bounds.high from bounds)
              and known.created_position {before} %(after_birth)s::bigint
            order by known.reference {direction}, known.created_position {direction}
            limit %(walk_max)s::bigint
          )
          union all
          (
            select distinct known.created_position from {schema}.transaction_labels known
            where asked.kind = 'metadata' and known.ledger = %(ledger)s and known.key = asked.key and known.value = asked.value
              and known.{births_in_order}
          )
        ) merged
        order by merged.created_position {direction}
        limit %(walk_max)s::bigint

-- name: either_transactions_{order}
{within}
{list_begins}
{either_births}
{list_ends}

-- name: effective_either_transactions_{order}
{within}
{effective_list_begins}
{either_births}
{effective_list_ends}

-- name: status_births
-- Those that ever had this status (not posted: nearly all have that).
        select distinct known.created_position, null::text as transaction_id from {schema}.transactions known
        where known.ledger = %(ledger)s and known.status = %(indexed)s and known.status <> 'posted'
          and known.{births_in_order}

-- name: status_transactions_{order}
{within}
{list_begins}
{status_births}
{list_ends}

-- name: effective_status_transactions_{order}
{within}
{effective_list_begins}
{status_births}
{effective_list_ends}

-- name: unsettled_births
-- Those that are pending or scheduled now, however many ever were: for what is as of now.
        select known.created_position, known.transaction_id from {schema}.unsettled known
        where known.ledger = %(ledger)s and known.status = %(indexed)s and known.until_position is null
          and known.{births_in_order}

-- name: unsettled_transactions_{order}
{within}
{list_begins}
{unsettled_births}
{list_ends}

-- name: effective_unsettled_transactions_{order}
{within}
{effective_list_begins}
{unsettled_births}
{effective_list_ends}

-- name: amount_births
-- Those with exactly this amount in an asset.
        select merged.created_position, null::text as transaction_id
        from (
          (
            select known.created_position from {schema}.transactions known
            where known.ledger = %(ledger)s and known.asset = %(asset)s and known.amount = %(indexed)s::numeric
              and known.position = known.created_position and known.{births_in_order}
          )
          union all
          (
            select known.created_position from {schema}.other_amounts known
            where known.ledger = %(ledger)s and known.asset = %(asset)s and known.amount = %(indexed)s::numeric
              and known.{births_in_order}
          )
        ) merged
        order by merged.created_position {direction}
        limit %(walk_max)s::bigint

-- name: amount_transactions_{order}
{within}
{list_begins}
{amount_births}
{list_ends}

-- name: effective_amount_transactions_{order}
{within}
{effective_list_begins}
{amount_births}
{effective_list_ends}

-- name: effective_births_newest
known.effective_at >= coalesce(%(effective_from)s::timestamptz, '-infinity')
          and (known.effective_at, known.created_position, known.position) < (
            coalesce(least(%(after_time)s::timestamptz, %(effective_until)s::timestamptz), 'infinity'),
            %(after_position)s::bigint, %(after_version)s::bigint
          )

-- name: effective_births_oldest
known.effective_at <= coalesce(%(effective_until)s::timestamptz, 'infinity')
          and (known.effective_at, known.created_position, known.position) > (
            coalesce(greatest(%(after_time)s::timestamptz, %(effective_from)s::timestamptz), '-infinity'),
            %(after_position)s::bigint, %(after_version)s::bigint
          )

-- name: effective_walk
-- In the order of effective time. Every version stands in the index; the one as of `at` counts, so that each comes once.
  select * from (
    select
      walk.created_position as walked_to, version.position = walk.position and ({condition}) as fits,
      {transaction_columns}, walk.number, walk.effective_at as walked_at, walk.position as walked_version
    from (
      select
        met.*,
        row_number() over (
          order by met.effective_at {direction}, met.created_position {direction}, met.position {direction}
        ) as number
      from (
        select known.transaction_id, known.created_position, known.position, known.effective_at
        from {schema}.transactions known
        where known.ledger = %(ledger)s and known.position <= stamp.at
          and {effective_births_{order}}
        order by known.effective_at {direction}, known.created_position {direction}, known.position {direction}
        limit %(walk_max)s::bigint
      ) met
    ) walk
    cross join {transaction_version}
  ) looked
  where looked.fits or looked.number = %(walk_max)s::bigint
  order by looked.walked_at {direction}, looked.walked_to {direction}, looked.walked_version {direction}
  limit %(limit)s::bigint

-- name: effective_transactions_{order}
with {stamp}
select {stamped}, found.*
from stamp
left join lateral (
  {effective_walk}
) found on true
order by found.number

-- name: effective_list_begins
-- In the order of effective time, those that an index leads to: all of them are looked at and sorted, again for every page. Where there
-- are walk_max of them or more, the walk above goes on instead, from the same place: the order is the same.
, led_to as materialized (
  select met.* from (

-- name: effective_list_ends
  ) met
)
select {stamped}, found.*
from stamp
left join lateral (
  select * from (
    (
      select walked.* from (
  {effective_walk}
      ) walked
      where (select count(*) from led_to) >= %(walk_max)s::bigint
    )
    union all
    (
      select * from (
        select walk.created_position as walked_to, ({condition}) as fits, {transaction_columns}, 0::bigint as number,
          version.effective_at as walked_at, version.position as walked_version
        from (
          select met.created_position, coalesce(met.transaction_id, birth.transaction_id) as transaction_id
          from led_to met
          {birth_of_met}
          where (select count(*) from led_to) < %(walk_max)s::bigint
        ) walk
        cross join {transaction_version}
      ) looked
      where looked.fits and (looked.walked_at, looked.walked_to, looked.walked_version)
        {before} (coalesce(%(after_time)s::timestamptz, '{edge}'), %(after_position)s::bigint, %(after_version)s::bigint)
      order by looked.walked_at {direction}, looked.walked_to {direction}, looked.walked_version {direction}
      limit %(limit)s::bigint
    )
  ) either
  order by either.walked_at {direction}, either.walked_to {direction}, either.walked_version {direction}
  limit %(limit)s::bigint
) found on true
order by found.walked_at {direction}, found.walked_to {direction}, found.walked_version {direction}

-- name: transaction
-- A range of one, so that its order counts: only the index by id gives it, and the planner, while the table is empty, would
-- as soon search the ledger by position.
with {stamp}
select {stamped}, found.*
from stamp
left join lateral (
  select version.created_position as walked_to, true as fits, {transaction_columns}, 1::bigint as number
  from {schema}.transactions version
  where version.ledger = %(ledger)s and version.transaction_id between %(transaction)s and %(transaction)s
    and version.position <= stamp.at
  order by version.transaction_id desc, version.position desc limit 1
) found on true

-- name: account_list_begins
with {stamp}
select {stamped}, found.*
from stamp
left join lateral (
  select * from (
    select walk.address as walked_to, ({condition}) as fits, {account_columns}, walk.number
    from (
      select met.address, row_number() over (order by met.address) as number
      from (

-- name: account_list_ends
      ) met
    ) walk
    cross join lateral (
      select * from {schema}.accounts known
      where known.ledger = %(ledger)s and known.address = walk.address and known.position <= stamp.at
      order by known.position desc limit 1
    ) version
  ) looked
  where looked.fits or looked.number = %(walk_max)s::bigint
  order by looked.walked_to
  limit %(limit)s::bigint
) found on true
order by found.walked_to

-- name: address_range
known.ledger = %(ledger)s and known.address > %(after)s and known.address >= %(low)s and known.address < %(high)s

-- name: accounts
-- By address: of each account the version that opened it.
{account_list_begins}
      select known.address from {schema}.accounts known
      where {address_range} and known.position = known.opened_position and known.position <= stamp.at
      order by known.address
      limit %(walk_max)s::bigint
{account_list_ends}

-- name: labelled_accounts
{account_list_begins}
      select distinct known.address from {schema}.account_labels known
      where {address_range} and known.key = %(key)s and known.value = %(indexed)s and known.position <= stamp.at
      order by known.address
      limit %(walk_max)s::bigint
{account_list_ends}

-- name: either_accounts
-- Those whose metadata ever had one of several values. Each look is in order, so they merge.
{account_list_begins}
      select distinct merged.address
      from unnest(%(keys)s::text[], %(indexed)s::text[]) as asked (key, value)
      cross join lateral (
        select distinct known.address from {schema}.account_labels known
        where {address_range} and known.key = asked.key and known.value = asked.value and known.position <= stamp.at
        order by known.address
        limit %(walk_max)s::bigint
      ) merged
      order by merged.address
      limit %(walk_max)s::bigint
{account_list_ends}

-- name: status_accounts
{account_list_begins}
      select distinct known.address from {schema}.accounts known
      where {address_range} and known.status = %(indexed)s and known.status <> 'open' and known.position <= stamp.at
      order by known.address
      limit %(walk_max)s::bigint
{account_list_ends}

-- name: listed_balances
-- The balances of many accounts at once, for a list of them.
with {stamp}
select {stamped}, found.*
from stamp
left join lateral (
  select pair.address, pair.asset, total.*
  from unnest(%(addresses)s::text[]) as listed (address)
  cross join {assets_of_listed} pair
  cross join lateral (select stamp.at as seen) until
  cross join {pair_totals} total
) found on stamp.at is not null

-- name: effective_listed_balances
with {both_stamp}
select {stamped}, found.*
from stamp
left join lateral (
  select pair.address, pair.asset, effective.debits, effective.credits, null::numeric, null::numeric
  from unnest(%(addresses)s::text[]) as listed (address)
  cross join {assets_of_listed} pair
  cross join lateral (
    select %(effective_at)s::timestamptz as effective_at, stamp.at as position, stamp.at as seen
  ) until
  cross join {effective_totals}
  where effective.is_there
) found on stamp.at is not null

-- name: assets_of_listed
lateral (
    with recursive assets as (
      (
        select first.asset from {schema}.entries first
        where first.ledger = %(ledger)s and first.address = listed.address order by first.asset limit 1
      )
      union all
      select next.asset from assets
      cross join lateral (
        select later.asset from {schema}.entries later
        where later.ledger = %(ledger)s and later.address = listed.address and later.asset > assets.asset
        order by later.asset limit 1
      ) next
    )
    select listed.address, assets.asset from assets
  )
