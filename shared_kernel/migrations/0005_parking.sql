-- A ledger that a projection cannot go on with: parked, its event set apart as a dead letter, retried or skipped by an operator; and the
-- trail of what operators did. All changes of these tables by an operator come with a row of the trail, in the same transaction.

-- `state`: 'waiting' goes on by itself (a neighbour is down, this software is older than the event); 'parked' goes on when an operator
-- says so, and until then no worker can move it. Retrying is: state 'waiting' and a new `asked_at`, upon which workers try at once.
alter table projections.waiting
  add column event_type text not null default '',
  add column trace_id   text,
  add column asked_at   timestamptz;

-- Events that a version of a projection leaves out, in every generation of it, and why. `lifted_at`: no longer (the ledger was repaired).
create table projections.skips (
  projection text collate "C" not null,
  version    integer          not null,
  ledger     text collate "C" not null,
  position   bigint           not null check (position > 0),
  reason     text             not null check (reason <> ''),
  actor      text             not null,
  at         timestamptz      not null default clock_timestamp(),
  lifted_at  timestamptz,
  primary key (projection, version, ledger, position)
);

-- Events that a generation has passed and left out: written by the worker with its position. As long as a row is here, the
-- ledger's answers from that position on are incomplete; a repair that refolds the ledger without the skip deletes its rows.
create table projections.skipped (
  projection text collate "C" not null,
  generation integer          not null,
  ledger     text collate "C" not null,
  position   bigint           not null check (position > 0),
  at         timestamptz      not null default clock_timestamp(),
  primary key (projection, generation, ledger, position)
);

-- Every event that parked a ledger, and what became of it; the topic of dead letters is a copy of this. The event itself is in the log.
create table projections.dead_letters (
  projection       text collate "C" not null,
  generation       integer          not null,
  ledger           text collate "C" not null,
  position         bigint           not null check (position > 0),
  version          integer          not null,
  event_type       text             not null,
  error_class      text             not null,
  error            text             not null,
  trace_id         text,
  attempts         integer          not null default 1,
  first_attempt_at timestamptz      not null,
  last_attempt_at  timestamptz      not null,
  published_at     timestamptz,     -- null: not in the topic yet
  resolved_at      timestamptz,
  resolution       text check (resolution in ('applied', 'skipped')),
  primary key (projection, generation, ledger, position),
  check ((resolved_at is null) = (resolution is null))
);
create index dead_letters_unpublished on projections.dead_letters (projection, last_attempt_at) where published_at is null;

-- What queries ask of a ledger: it stands before `position`, or left that one out. One ledger may have several rows.
create view projections.standstills as
select w.projection, w.generation, w.ledger, w.state, w.since, w.position from projections.waiting w
union all
select s.projection, s.generation, s.ledger, 'skipped', s.at, s.position from projections.skipped s;

-- Who did what to which projection, and why. `details`: what it changed (for a skip {"position": …}), never amounts or secrets.
create table projections.operator_actions (
  id         bigint           generated always as identity primary key,
  at         timestamptz      not null default clock_timestamp(),
  actor      text             not null check (actor <> ''),
  action     text             not null,        -- park | retry | skip | pause | resume | rebuild | verify | swap | …
  projection text collate "C" not null,
  ledger     text collate "C",                 -- null: the projection as a whole
  reason     text             not null default '',
  details    jsonb            not null default '{}'
);
create trigger immutable before update or delete or truncate on projections.operator_actions
  for each statement execute function daybook.refuse_change();

grant select on projections.skips, projections.skipped, projections.dead_letters, projections.standstills,
  projections.operator_actions to daybook_query, daybook_projector;
grant insert, update, delete on projections.skips, projections.skipped, projections.dead_letters to daybook_projector;
grant insert on projections.operator_actions to daybook_projector;
