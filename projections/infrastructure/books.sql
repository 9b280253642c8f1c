-- The tables of one generation of `books`, made in that generation's own schema (search_path names it).
--
-- Every row is a version: it says what is true from `position` on, until a later row of the same subject says otherwise. Rows are
-- only ever added (`unsettled.until_position` alone is set later, once). To read a subject as of position P, take its row with the
-- greatest position <= P. No surrogate ids, no wall clock: two builds from one log are equal, byte for byte. All text is compared
-- by bytes, so address ranges follow the grammar. JSON stands as text, the way the API answers it.
--
-- A list as of P is walked in an order that never changes (position of birth, address, effective time), and each subject met is
-- shown in its version as of P; where an index holds several versions of one subject, the walker takes the subject once and looks
-- whether its version as of P still fits. `-- why` stands at each index: what is bounded by it. Keys and indexes stand apart from
-- the tables, so that a build can come to make them late: made at once they cost a fifth of what they cost row by row (measured).

-- name: schema
create table ledgers (
    ledger           text collate "C" not null,
    position         bigint not null,
    status           text collate "C" not null,   -- open | archived
    opened_at        timestamptz not null,        -- recorded time of the opening (always position 1), the same in every version
    recorded_at      timestamptz not null,        -- of this version
    accounts         text collate "C" not null,   -- explicit | on-first-use
    defaults         text collate "C" not null,   -- JSON: [{"pattern", "normal_balance", "limits"}]
    records_refusals boolean not null,
    time_zone        text collate "C" not null,   -- IANA name; UTC where the ledger fixed none
    metadata         text collate "C" not null    -- JSON object
);

create table accounts (
    ledger          text collate "C" not null,
    address         text collate "C" not null,
    position        bigint not null,
    opened_position bigint not null,              -- of the first version, the same in every version
    opened_at       timestamptz not null,         -- recorded time of the opening, the same in every version
    recorded_at     timestamptz not null,         -- of this version
    normal_balance  text collate "C" not null,    -- debit | credit
    status          text collate "C" not null,    -- open | frozen | closed
    frozen          text collate "C",             -- all | debits | credits, while frozen
    on_first_use    boolean not null,
    limits          text collate "C" not null,    -- JSON: {"USD/2": {"minimum", "maximum"}}
    metadata        text collate "C" not null     -- JSON object
);

-- A transaction from its birth (posted, held or scheduled) through every change. `position` is of this version,
-- `created_position` of the first; the list of transactions is in the order of `created_position`.
create table transactions (
    ledger           text collate "C" not null,
    transaction_id   text collate "C" not null,
    position         bigint not null,
    created_position bigint not null,
    created_at       timestamptz not null,        -- recorded time of the birth
    recorded_at      timestamptz not null,        -- of this version
    status           text collate "C" not null,   -- posted | pending | voided | expired | scheduled | refused | cancelled
    effective_at     timestamptz not null,        -- when it counts; a capture may move it
    held_effective_at timestamptz,                -- what a hold gave as its effective time, the default of its captures
    expires_at       timestamptz,                 -- of what was held with an end
    reference        text collate "C",            -- unique in its ledger
    description      text collate "C",
    entries          text collate "C" not null,   -- JSON: [{"account", "direction", "amount", "asset"}], as at its birth
    posted_entries   text collate "C",            -- JSON, of what was ever held: all that was posted of it so far; else null
    held_entries     text collate "C",            -- JSON, of what was ever held: what is still held; else null
    metadata         text collate "C" not null,   -- JSON object
    asset            text collate "C" not null,   -- of its first entry
    amount           numeric not null,            -- the debits of `entries` in that asset; its other assets stand in other_amounts
    reverses         text collate "C",            -- the transaction that this one turns round
    reversed_by      text collate "C",            -- JSON: ids of those that turn this one round, oldest first; null: none
    is_forced        boolean not null,            -- posted by an admin whatever the limits said
    actor            text collate "C" not null,   -- who made it (its birth)
    correlation_id   text collate "C" not null    -- of its birth
);

-- For transactions in several assets: the debits of every asset but that of the first entry.
create table other_amounts (
    ledger           text collate "C" not null,
    asset            text collate "C" not null,
    amount           numeric not null,
    created_position bigint not null
);

-- What moved on accounts, with the account's totals in that asset just after it: the statement, and the balance at every position
-- in one (the last row at or before it). `pending_…` count posted and held, as in every balance; so, for a credit-normal account,
--   posted = posted_credits - posted_debits, pending = pending_credits - pending_debits,
--   available = posted_credits - pending_debits (what is held going out is gone, what is held coming in is not yet there).
-- kind: posted (moves posted and pending), held (pending only), released (takes from pending), captured (held before, now posted:
-- moves posted only). Statements of what was posted take posted and captured.
create table entries (
    ledger          text collate "C" not null,
    address         text collate "C" not null,
    asset           text collate "C" not null,
    position        bigint not null,
    entry_index     integer not null,             -- from 0, within its event: first its entries, then what it released
    kind            text collate "C" not null,    -- posted | held | released | captured
    direction       text collate "C" not null,    -- debit | credit; of a release: of what had been held
    amount          numeric not null,
    transaction_id  text collate "C" not null,
    recorded_at     timestamptz not null,
    effective_at    timestamptz not null,         -- the transaction's, as of this event
    posted_debits   numeric not null,
    posted_credits  numeric not null,
    pending_debits  numeric not null,
    pending_credits numeric not null
);

-- Transactions that are not settled yet, from `position` until before `until_position` (null: still). `created_position` finds the
-- transaction. due_at: when the clock has something to do: a hold's end, a scheduled transaction's time; null: a hold without end.
-- What is due at a time T, in every ledger of this generation:
--   select ledger, transaction_id, status, due_at from unsettled where until_position is null and due_at <= T order by due_at limit n
create table unsettled (
    ledger           text collate "C" not null,
    transaction_id   text collate "C" not null,
    position         bigint not null,
    created_position bigint not null,
    status           text collate "C" not null,   -- pending | scheduled
    due_at           timestamptz,
    until_position   bigint
);
-- The clock runs as a command process.
grant select on unsettled to daybook_command;

-- The accounts that a scheduled transaction names: nothing moves on them before its time, so there are no entries to find it by.
create table scheduled_accounts (
    ledger           text collate "C" not null,
    address          text collate "C" not null,
    created_position bigint not null
);

-- Commands that the rules turned down (CommandRefused), and scheduled transactions that they turned down when due
-- (ScheduledRefused: `transaction_id` is set). By account: the log's tag `refused:<address>` gives the positions.
create table refusals (
    ledger         text collate "C" not null,
    position       bigint not null,
    recorded_at    timestamptz not null,
    code           text collate "C" not null,
    command        text collate "C" not null,     -- its wire name; post_scheduled for ScheduledRefused
    transaction_id text collate "C",
    accounts       text collate "C" not null,     -- JSON: the addresses that it looked at
    fields         text collate "C" not null,     -- JSON object: what the problem document says besides its code
    asked          text collate "C",              -- JSON: what the client sent; null for ScheduledRefused
    judged_at      bigint not null,               -- the position whose state it was judged on
    actor          text collate "C" not null,
    correlation_id text collate "C" not null,
    key            text collate "C"               -- idempotency key
);

-- Metadata by key and value: a row for each key's value from `position` on. That it still has the value as of P is for the
-- version of the transaction or account as of P to say; a value that came back is there twice.
create table transaction_labels (
    ledger           text collate "C" not null,
    key              text collate "C" not null,
    value            text collate "C" not null,
    created_position bigint not null,             -- of the transaction: the order of the list
    position         bigint not null
);
create table account_labels (
    ledger   text collate "C" not null,
    key      text collate "C" not null,
    value    text collate "C" not null,
    address  text collate "C" not null,
    position bigint not null
);

-- name: keys
alter table ledgers add primary key (ledger, position);
alter table accounts add primary key (ledger, address, position);
alter table transactions add primary key (ledger, transaction_id, position);
alter table other_amounts add primary key (ledger, asset, amount, created_position);
alter table entries add primary key (ledger, address, asset, position, entry_index);
alter table unsettled add primary key (ledger, transaction_id);
alter table scheduled_accounts add primary key (ledger, address, created_position);
alter table refusals add primary key (ledger, position);
alter table transaction_labels add primary key (ledger, key, value, created_position, position);
alter table account_labels add primary key (ledger, key, value, address, position);

-- name: indexes
-- why: transactions in the order of their births, and the transaction that was born at a position (from labels, amounts, entries).
create unique index transactions_by_birth on transactions (ledger, created_position) where position = created_position;
-- why: the one transaction of a reference.
create index transactions_by_reference on transactions (ledger, reference, created_position)
  where position = created_position and reference is not null;
-- why: a range of effective time of one ledger, without reading the rest. Of every version, since a capture may move it.
create index transactions_by_effective_time on transactions (ledger, effective_at, created_position, position);
-- why: amounts are looked for by those who know nothing else of a transaction.
create index transactions_by_amount on transactions (ledger, asset, amount, created_position) where position = created_position;
-- why: what is not simply posted is rare among many. Of every version that ever had the status.
create index transactions_by_status on transactions (ledger, status, created_position, position) where status <> 'posted';
-- why: the same for accounts, in the order of addresses.
create index accounts_by_status on accounts (ledger, status, address, position) where status <> 'open';
-- why: the clock asks every second, of all ledgers.
create index unsettled_by_due_time on unsettled (due_at, ledger, transaction_id) where until_position is null and due_at is not null;
-- why: what is pending or scheduled now, however much ever was.
create index unsettled_by_birth on unsettled (ledger, status, created_position) where until_position is null;
-- why: refusals by code and by caller, of many others.
create index refusals_by_code on refusals (ledger, code, position);
create index refusals_by_actor on refusals (ledger, actor, position);
