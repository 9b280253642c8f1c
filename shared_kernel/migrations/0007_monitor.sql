-- What the monitor remembers: its last look, and what was wrong from when to when. Any monitor goes on where another left off.

create schema monitor;
revoke all on schema monitor from public;

-- One row. `look` is the JSON of daybook/monitor/domain/looks.py, empty before the first look.
create table monitor.last_look (
  is_only  boolean     not null default true primary key check (is_only),
  taken_at timestamptz not null default '-infinity',
  look     text        not null default ''
);
insert into monitor.last_look default values;

-- Bounded: the monitor removes the oldest. `looks` and `missed` count looks in a row that did and did not see it.
create table monitor.findings (
  id            bigint           generated always as identity primary key,
  kind          text collate "C" not null,
  subject       text collate "C" not null,
  first_seen_at timestamptz      not null,
  last_seen_at  timestamptz      not null,
  looks         integer          not null,
  missed        integer          not null,
  raised_at     timestamptz,
  ended_at      timestamptz,
  action        text             not null default '',
  detail        text             not null
) with (fillfactor = 70);
create unique index findings_open on monitor.findings (kind, subject) where ended_at is null;

-- Of the log only how far it is and when: no type, no content.
grant usage on schema monitor, daybook, projections to daybook_monitor;
grant select, update on monitor.last_look to daybook_monitor;
grant select, insert, update, delete on monitor.findings to daybook_monitor;
grant select on daybook.incarnation, daybook.ledgers to daybook_monitor;
grant select (ledger, position, recorded_at) on daybook.events to daybook_monitor;
grant select on
  projections.relay_lease, projections.relay_positions, projections.generations, projections.live, projections.positions,
  projections.waiting
  to daybook_monitor;
