-- The tables of one generation of `books`, made in that generation's own schema (search_path names it).
--
-- Every row is a version: it says what is true from `position` on, until a later row of the same subject says otherwise. Rows are
-- only ever added. To read a subject as of position P, take its row with the greatest position <= P. No surrogate ids, no wall
-- clock: two builds from one log are equal, byte for byte. All text is compared by bytes, so address ranges follow the grammar.
-- JSON stands as text, the way the API answers it.

-- name: schema
create table ledgers (
    ledger           text collate "C" not null,
    position         bigint not null,
    recorded_at      timestamptz not null,
    accounts         text collate "C" not null,   -- explicit | on-first-use
    defaults         text collate "C" not null,   -- JSON: [{"pattern", "normal_balance", "limits"}]
    records_refusals boolean not null,
    metadata         text collate "C" not null,   -- JSON object
    primary key (ledger)
);

create table accounts (
    ledger         text collate "C" not null,
    address        text collate "C" not null,
    position       bigint not null,
    opened_at      timestamptz not null,          -- recorded time of the opening, the same in every version
    normal_balance text collate "C" not null,     -- debit | credit
    status         text collate "C" not null,     -- open | frozen | closed
    on_first_use   boolean not null,
    limits         text collate "C" not null,     -- JSON: {"USD/2": {"minimum", "maximum"}}
    metadata       text collate "C" not null,     -- JSON object
    primary key (ledger, address, position)
);

create table transactions (
    ledger         text collate "C" not null,
    transaction_id text collate "C" not null,
    position       bigint not null,
    status         text collate "C" not null,     -- posted
    recorded_at    timestamptz not null,          -- of this version
    effective_at   timestamptz not null,
    reference      text collate "C",
    description    text collate "C",
    entries        text collate "C" not null,     -- JSON: [{"account", "direction", "amount", "asset"}]
    metadata       text collate "C" not null,     -- JSON object
    actor          text collate "C" not null,
    correlation_id text collate "C" not null,
    primary key (ledger, transaction_id, position)
);
create unique index transactions_by_position on transactions (ledger, position);
create index transactions_by_reference on transactions (ledger, reference, position) where reference is not null;

-- Entries with the account's totals in that asset just after them: the statement, and the balance at every position in one
-- (the last row at or before it). Held totals are zero until there are holds. Signs: normal side positive, so the running
-- posted balance of a credit-normal account is posted_credits - posted_debits.
create table entries (
    ledger          text collate "C" not null,
    address         text collate "C" not null,
    asset           text collate "C" not null,
    position        bigint not null,
    entry_index     integer not null,             -- from 0, within its transaction
    direction       text collate "C" not null,    -- debit | credit
    amount          numeric(39, 0) not null,
    transaction_id  text collate "C" not null,
    recorded_at     timestamptz not null,
    effective_at    timestamptz not null,
    posted_debits   numeric not null,
    posted_credits  numeric not null,
    pending_debits  numeric not null,
    pending_credits numeric not null,
    primary key (ledger, address, asset, position, entry_index)
);

-- name: totals
-- The latest totals of each (ledger, address, asset) that has any: one index probe each.
select k.ledger, k.address, k.asset, e.posted_debits, e.posted_credits, e.pending_debits, e.pending_credits
from unnest(%s::text[], %s::text[], %s::text[]) as k (ledger, address, asset)
cross join lateral (
    select e.posted_debits, e.posted_credits, e.pending_debits, e.pending_credits
    from {schema}.entries e
    where e.ledger = k.ledger and e.address = k.address and e.asset = k.asset
    order by e.position desc, e.entry_index desc limit 1
) as e
