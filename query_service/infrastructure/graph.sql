-- What the GraphQL endpoint asks for many at once, so that a level of a query costs a statement and not one for each node.
-- Stamp and places as in books.sql.

-- name: named_accounts
with {stamp}
select {stamped}, found.*
from stamp
left join lateral (
  select {account_columns}
  from unnest(%(addresses)s::text[]) as listed (address)
  cross join lateral (
    select * from {schema}.accounts known
    where known.ledger = %(ledger)s and known.address = listed.address and known.position <= stamp.at
    order by known.position desc limit 1
  ) version
) found on stamp.at is not null

-- name: named_transactions
with {stamp}
select {stamped}, found.*
from stamp
left join lateral (
  select 0::bigint as walked_to, true as fits, {transaction_columns}, 0::bigint as number
  from unnest(%(transactions)s::text[]) as listed (transaction_id)
  cross join lateral (
    select * from {schema}.transactions known
    where known.ledger = %(ledger)s and known.transaction_id = listed.transaction_id and known.position <= stamp.at
    order by known.position desc limit 1
  ) version
) found on stamp.at is not null

-- name: entries_of_many_{order}
-- Of each account as many as of one alone.
with {stamp}
select {stamped}, found.*
from stamp
left join lateral (
  select account.address, account.normal_balance, {entry_columns}
  from unnest(%(addresses)s::text[]) as listed (address)
  cross join lateral (
    select known.address, known.normal_balance from {schema}.accounts known
    where known.ledger = %(ledger)s and known.address = listed.address and known.position <= stamp.at
    order by known.position desc limit 1
  ) account
  cross join lateral (
    select each.*
    from {assets_of_listed} pair
    cross join lateral (
      select * from {schema}.entries entry
      where entry.ledger = %(ledger)s and entry.address = listed.address and entry.asset = pair.asset
        and {entries_seen_{order}}
      order by entry.position {direction}, entry.entry_index {direction}
      limit %(limit)s::bigint
    ) each
    where %(asset)s::text is null or pair.asset = %(asset)s
    order by each.position {direction}, each.entry_index {direction}
    limit %(limit)s::bigint
  ) merged
) found on stamp.at is not null
order by found.address, found.position {direction}, found.entry_index {direction}
