-- The tables of one generation of `periods`: posted totals of an account and asset by position and effective time at once.
--
-- The question is always the same: all that was posted with position <= P and effective_at <= E. Entries fall into two kinds,
-- by the order in which they came (the same in every build):
--
-- timely: effective no earlier than every timely entry of the same account and asset before it, and no later than recorded. Nearly
-- all are: whatever is posted without an effective time of its own, and every import in the order of time. For these position and
-- effective time rise together, so that the answer is one running total, that of the last row with both <= : the earlier of
--   (… position <= P order by position desc limit 1) and (… effective_at <= E order by effective_at desc, position desc limit 1).
--
-- untimely: back-dated behind a timely one, or dated into the future. Their totals stand by year, month, day, hour, minute and second
-- (all UTC: no zone's rules, which change, in a build; the first instant of each) and by the instant itself, each row the total of its
-- span from `position` on. The answer is the sum, over the spans that cover everything up to E, of each one's last row with position
-- <= P: years begun before E's year, months of E's year before E's month … seconds of E's minute before E's second, instants of E's
-- second <= E. Every step is an index probe, so it costs what years, 11 months, 30 days, 23 hours, 59 minutes, 59 seconds and instants
-- of one second there are at the most, not what was posted. (Spans down to the day alone are not enough: where the clocks of those
-- who post differ by seconds, half of a busy account's entries are untimely, each an instant of its own: 1.1 s for 50,000 a day.)
--
-- Days of a ledger's own zone are instants like any other: "until the end of 31 March" is E = the last microsecond of it there.
-- Only what was posted counts (posted and captured entries; not what is held). All entries of an event in one account and asset are one row.

-- name: schema
create table timely (
    ledger       text collate "C" not null,
    address      text collate "C" not null,
    asset        text collate "C" not null,
    position     bigint not null,
    effective_at timestamptz not null,
    debits       numeric not null,                -- running totals of the timely rows up to this one
    credits      numeric not null
);

create table untimely (
    ledger    text collate "C" not null,
    address   text collate "C" not null,
    asset     text collate "C" not null,
    span      text collate "C" not null,          -- year | month | day | hour | minute | second | instant
    begins_at timestamptz not null,               -- the span's first instant, in UTC; of an instant: itself
    position  bigint not null,
    debits    numeric not null,                   -- of all untimely entries in the span up to this position
    credits   numeric not null
);

-- The effective time that a hold gave, the default of its captures. A hold without one is not here: its captures count when recorded.
create table holds (
    ledger         text collate "C" not null,
    transaction_id text collate "C" not null,
    position       bigint not null,
    effective_at   timestamptz not null
);

-- name: keys
alter table timely add primary key (ledger, address, asset, position);
alter table untimely add primary key (ledger, address, asset, span, begins_at, position);
alter table holds add primary key (ledger, transaction_id, position);

-- name: indexes
-- why: the probe by effective time; also the statement in the order of effective time (beside the instants of untimely).
create index timely_by_effective_time on timely (ledger, address, asset, effective_at, position);
