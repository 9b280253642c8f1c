-- The tables of one generation of `books`, made in that generation's own schema (search_path names it).
--
-- Every row is a version: it says what is true from `position` on, until a later row of the same subject says otherwise. Rows are
-- only ever added. To read a subject as of position P, take its row with the greatest position <= P. No surrogate ids, no wall
-- clock: two builds from one log are equal, byte for byte. All text is compared by bytes, so address ranges follow the grammar.
-- JSON stands as text, the way the API answers it.

CREATE TABLE ledgers (
    ledger           text COLLATE "C" NOT NULL,
    position         bigint NOT NULL,
    recorded_at      timestamptz NOT NULL,
    accounts         text COLLATE "C" NOT NULL,   -- explicit | on-first-use
    defaults         text COLLATE "C" NOT NULL,   -- JSON: [{"pattern", "normal_balance", "limits"}]
    records_refusals boolean NOT NULL,
    metadata         text COLLATE "C" NOT NULL,   -- JSON object
    PRIMARY KEY (ledger)
);

CREATE TABLE accounts (
    ledger         text COLLATE "C" NOT NULL,
    address        text COLLATE "C" NOT NULL,
    position       bigint NOT NULL,
    opened_at      timestamptz NOT NULL,          -- recorded time of the opening, the same in every version
    normal_balance text COLLATE "C" NOT NULL,     -- debit | credit
    status         text COLLATE "C" NOT NULL,     -- open | frozen | closed
    on_first_use   boolean NOT NULL,
    limits         text COLLATE "C" NOT NULL,     -- JSON: {"USD/2": {"minimum", "maximum"}}
    metadata       text COLLATE "C" NOT NULL,     -- JSON object
    PRIMARY KEY (ledger, address, position)
);

CREATE TABLE transactions (
    ledger         text COLLATE "C" NOT NULL,
    transaction_id text COLLATE "C" NOT NULL,
    position       bigint NOT NULL,
    status         text COLLATE "C" NOT NULL,     -- posted
    recorded_at    timestamptz NOT NULL,          -- of this version
    effective_at   timestamptz NOT NULL,
    reference      text COLLATE "C",
    description    text COLLATE "C",
    entries        text COLLATE "C" NOT NULL,     -- JSON: [{"account", "direction", "amount", "asset"}]
    metadata       text COLLATE "C" NOT NULL,     -- JSON object
    actor          text COLLATE "C" NOT NULL,
    correlation_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (ledger, transaction_id, position)
);
CREATE UNIQUE INDEX transactions_by_position ON transactions (ledger, position);
CREATE INDEX transactions_by_reference ON transactions (ledger, reference, position) WHERE reference IS NOT NULL;

-- Entries with the account's totals in that asset just after them: the statement, and the balance at every position in one
-- (the last row at or before it). Held totals are zero until there are holds. Signs: normal side positive, so the running
-- posted balance of a credit-normal account is posted_credits - posted_debits.
CREATE TABLE entries (
    ledger          text COLLATE "C" NOT NULL,
    address         text COLLATE "C" NOT NULL,
    asset           text COLLATE "C" NOT NULL,
    position        bigint NOT NULL,
    entry_index     integer NOT NULL,             -- from 0, within its transaction
    direction       text COLLATE "C" NOT NULL,    -- debit | credit
    amount          numeric(39, 0) NOT NULL,
    transaction_id  text COLLATE "C" NOT NULL,
    recorded_at     timestamptz NOT NULL,
    effective_at    timestamptz NOT NULL,
    posted_debits   numeric NOT NULL,
    posted_credits  numeric NOT NULL,
    pending_debits  numeric NOT NULL,
    pending_credits numeric NOT NULL,
    PRIMARY KEY (ledger, address, asset, position, entry_index)
);
