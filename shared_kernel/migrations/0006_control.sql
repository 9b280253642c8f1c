-- What operators want of the projections, and what they asked for: pauses, and jobs (rebuild, verify, repair, reconcile) with their
-- progress. All of it is here and none of it in a process, so that it survives restarts and any projector answers for all.

-- A generation is building, built (whole, fed, waiting to be taken over), live, former (fed until it is dropped) or dropped (its
-- schema is gone; the number is not used again). Automatic: a projector makes it by itself, for code of a higher version, and it
-- takes over by itself; otherwise a job builds it and an operator decides.
alter table projections.generations
  add column is_automatic boolean not null default true,
  add constraint generations_state check (state in ('building', 'built', 'live', 'former', 'dropped'));

-- The generation that was live before: where a rollback goes.
alter table projections.live add column previous integer;

-- Part of the compare-and-set of a ledger's position: a repair changes rows below it, so that whoever remembers them loses the race.
alter table projections.positions add column repairs integer not null default 0;

create table projections.paused (
  projection text collate "C" not null primary key,
  since      timestamptz      not null default clock_timestamp(),
  actor      text             not null,
  reason     text             not null default ''
);

-- A projector process takes a job's lease and works on it; when it falls silent another goes on with the job.
create table projections.jobs (
  id                    bigint           generated always as identity primary key,
  kind                  text             not null check (kind in ('rebuild', 'verify', 'repair', 'reconcile')),
  projection            text collate "C" not null,
  generation            integer          not null, -- what is built, looked at or mended
  ledger                text collate "C",          -- null: all
  events_per_second_max integer          check (events_per_second_max > 0),
  state                 text             not null default 'waiting'
    check (state in ('waiting', 'running', 'done', 'failed', 'cancelled')),
  actor                 text             not null,
  reason                text             not null default '',
  asked_at              timestamptz      not null default clock_timestamp(),
  began_at              timestamptz,
  ended_at              timestamptz,
  owner                 text             not null default '',
  attempts              integer          not null default 0, -- since it last came further
  lease_until           timestamptz      not null default '-infinity',
  events_done           bigint           not null default 0,
  events_total          bigint           not null default 0,
  events_per_second     double precision,
  against               integer,                   -- of verify: the generation that was live
  has_passed            boolean,                   -- of verify, repair and reconcile, once done
  findings              text,                      -- JSON: what differs, and where first
  error                 text,
  foreign key (projection, generation) references projections.generations
) with (fillfactor = 50);
create unique index jobs_one_rebuild on projections.jobs (projection) where kind = 'rebuild' and state in ('waiting', 'running');
create index jobs_by_projection on projections.jobs (projection, id);

grant select on projections.paused, projections.jobs to daybook_query, daybook_relay, daybook_projector;
grant insert, update, delete on projections.paused, projections.jobs to daybook_projector;
