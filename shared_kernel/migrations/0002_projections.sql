-- What relay and projectors remember: the relay's lease and positions, the generations of each read model, which
-- one is live, how far each got, and where one stands still. Their rows live in schemas of their own
-- (`books_<generation>`), which the projector makes. Every position carries the incarnation it belongs to.

create schema projections;
revoke all on schema projections from public;

-- One row. A relay publishes while it owns it; every position it writes must carry the lease's epoch.
create table projections.relay_lease (
  is_only    boolean     not null default true primary key check (is_only),
  owner      text        not null default '',
  epoch      bigint      not null default 0,
  expires_at timestamptz not null default '-infinity'
) with (fillfactor = 10);
insert into projections.relay_lease default values;

create table projections.relay_positions (
  ledger      text collate "C" not null primary key,
  position    bigint           not null check (position >= 0),
  incarnation uuid             not null,
  epoch       bigint           not null
) with (fillfactor = 50);

create table projections.generations (
  projection  text collate "C" not null,
  generation  integer          not null check (generation > 0),
  version     integer          not null,
  schema_name text collate "C" not null unique,
  state       text             not null,
  incarnation uuid             not null,
  created_at  timestamptz      not null default clock_timestamp(),
  primary key (projection, generation)
);

-- The generation that queries read: taking over, or back, is an update of one row.
create table projections.live (
  projection text collate "C" not null primary key,
  generation integer          not null,
  foreign key (projection, generation) references projections.generations
);

create table projections.positions (
  projection  text collate "C" not null,
  generation  integer          not null,
  ledger      text collate "C" not null,
  position    bigint           not null check (position >= 0),
  recorded_at timestamptz,
  incarnation uuid             not null,
  primary key (projection, generation, ledger)
) with (fillfactor = 50);

-- Ledgers that stand still before `position`, and why.
create table projections.waiting (
  projection      text collate "C" not null,
  generation      integer          not null,
  ledger          text collate "C" not null,
  position        bigint           not null check (position > 0),
  state           text             not null check (state in ('waiting', 'parked')),
  error_class     text             not null,
  error           text             not null,
  attempts        integer          not null default 1,
  since           timestamptz      not null default clock_timestamp(),
  last_attempt_at timestamptz      not null default clock_timestamp(),
  primary key (projection, generation, ledger)
);

grant usage on schema projections to daybook_query, daybook_relay, daybook_projector;
grant select on all tables in schema projections to daybook_query, daybook_relay, daybook_projector;
grant update on projections.relay_lease to daybook_relay;
grant insert, update, delete on projections.relay_positions to daybook_relay;
grant insert, update, delete
  on projections.generations, projections.live, projections.positions, projections.waiting to daybook_projector;
