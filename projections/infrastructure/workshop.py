"""Where jobs are done: the parts that each kind of job needs, on connections of its own."""

import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Final
from zlib import crc32

import msgspec
import structlog
from psycopg import Connection, sql

from projections.application.jobs import Findings, Job, Outcome, TableDigest
from projections.application.ports import Generation
from projections.application.rebuild import Progress, Rebuild, Speed
from projections.domain.projection import Projection, Table
from projections.infrastructure.child_processes import ChildProcesses
from projections.infrastructure.postgres import STATEMENTS, Database, PostgresBounds, Row, Work
from projections.infrastructure.postgres_digests import COMPARISON, SNAPSHOT, PostgresDigests, by_account
from projections.infrastructure.postgres_generations import PostgresGenerations, make_indexes, make_schema
from projections.infrastructure.postgres_log import PostgresLog
from projections.infrastructure.postgres_read_model import PostgresReadModel
from projections.infrastructure.postgres_trail import STATEMENTS as TRAIL
from shared_kernel.errors import Contention, Corruption, Rejection

_REPAIR: Final = Work(name="repair", holds_others=True)
_INDEXES: Final = Work(name="indexes")
_SCRATCH: Final = Work(name="scratch_build")
GROUP_EVENTS_MAX: Final = 100_000  # chosen: some hundred megabytes beside the live side while they are compared
FIRST_DIFFERENCES: Final = 50
SHARE_LOOK_S: Final = 0.5


class Workshop:
    """Does jobs, one at a time, in the calling thread."""

    def __init__(
        self,
        url: str,
        projections: Mapping[str, Projection],
        *,
        bounds: PostgresBounds,
        build_bounds: PostgresBounds,
        speed: Speed,
        children: ChildProcesses,
        processes_max: int = 1,
        shared_events_min: int = 1,
    ) -> None:
        self._url = url
        self._projections = projections
        self._bounds = bounds
        self._build_bounds = build_bounds
        self._speed = speed
        self._children = children
        self._processes_max = processes_max
        self._shared_events_min = shared_events_min

    def work(self, job: Job, owner: str, progress: Progress, stop: threading.Event) -> Outcome:
        """The job is done, or `stop` was set. Rejection: it cannot be done."""
        with self._begun(job, progress, stop) as work:
            match job.kind:
                case "rebuild":
                    return work.rebuild(owner, self._children, self._processes_max, self._shared_events_min)
                case "verify":
                    return work.verify()
                case "reconcile":
                    return work.reconcile()
                case "repair":
                    return work.repair()

    def work_share(self, job: Job, *, number: int, of: int, stop: threading.Event) -> None:
        """Those ledgers of a rebuild that fall to one of several processes are built, up to a last batch."""
        with self._begun(job, Progress(), stop) as work:
            work.build_share(number, of, stop)

    @contextmanager
    def _begun(self, job: Job, progress: Progress, stop: threading.Event) -> Iterator["_Work"]:
        projection = self._projections.get(job.projection)
        if projection is None:
            raise Rejection("projection_not_found", projection=job.projection)
        speed = self._speed if job.events_per_second_max is None else self._speed.no_faster(job.events_per_second_max)
        work = _Work(
            self._url,
            projection,
            job=job,
            bounds=self._bounds,
            build_bounds=self._build_bounds,
            speed=speed,
            progress=progress,
            stop=stop,
        )
        try:
            yield work
        finally:
            work.close()


class _Work:
    """One job of one projection, on connections of its own."""

    def __init__(
        self,
        url: str,
        projection: Projection,
        *,
        job: Job,
        bounds: PostgresBounds,
        build_bounds: PostgresBounds,
        speed: Speed,
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        self._projection = projection
        self._job = job
        self._speed = speed
        self._progress = progress
        self._stop = stop
        name = f"daybook {job.kind} {projection.name}"
        # Reading, writing and looking up overlap, and keys are made beside a transaction: each has its connection.
        self._log, self._writing, self._looking = (Database(url, name=name, bounds=bounds) for _ in range(3))
        self._plain = Database(url, name=name, bounds=build_bounds)
        # Another process that makes the same keys is waited for as long as that takes it.
        patient = msgspec.structs.replace(build_bounds, lock_ms=build_bounds.statement_ms)
        self._keys = Database(url, name=name, bounds=patient)
        self._logger = structlog.get_logger("daybook.jobs").bind(job=job.id, projection=projection.name)
        self._generation = self._find()
        self._digests = PostgresDigests(self._plain, projection)

    def close(self) -> None:
        """Its connections are closed."""
        for database in (self._log, self._writing, self._looking, self._keys, self._plain):
            database.close()

    def rebuild(self, owner: str, children: ChildProcesses, processes_max: int, shared_events_min: int) -> Outcome:
        """The generation is whole."""
        looking = self._model(self._generation, self._plain)
        done, left, ledgers = self._size(looking)
        self._progress.begin(done=done, total=done + left)
        is_throttled = self._speed.events_per_second_max is not None  # then one has time enough for all ledgers
        processes = 1 if is_throttled else min(processes_max, ledgers)
        if processes > 1 and left >= shared_events_min:
            if (
                done
            ):  # then rows are asked for that no memory holds; two that made keys at once would be in each other's way
                self._make_keys(self._generation)
            self._share_out(owner, children, processes, looking)
        self._speed = self._speed.bounded_for(done + left, processes=1)
        self.builder().run()
        if not self._stop.is_set():
            self._make_keys(self._generation)
            with PostgresGenerations(self._plain, self._projection).changes() as session:
                of = {"projection": self._projection.name, "generation": self._generation.number, "state": "built"}
                session.execute(STATEMENTS["finish_building"], of)
                session.execute(TRAIL["tell_control"], of)
            self._logger.info("generation_built", generation=self._generation.number)
        return Outcome()

    def build_share(self, number: int, of: int, stop: threading.Event) -> None:
        """The ledgers that fall to the process of this number are built, up to a last batch, or `stop` is set."""
        done, left, _ = self._size(self._model(self._generation, self._plain))
        speed = self._speed.bounded_for(done + left, processes=of)
        is_mine = functools.partial(_falls_to, number - 1, of)
        self.builder(is_mine=is_mine, speed=speed, progress=Progress(), stop=stop).run()

    def verify(self) -> Outcome:
        """The generation is compared with the one that was live when that was asked for."""
        assert self._job.against is not None  # noqa: S101 - of its kind
        findings = self._digests.compare(self._job.generation, self._job.against)
        self._progress.begin(done=findings.events, total=findings.events)
        self._tell(findings)
        return Outcome(has_passed=findings.passed(), findings=findings)

    def reconcile(self) -> Outcome:
        """The live generation is compared with a fold of the log, group by group: what is folded beside it stays small."""
        model = self._model(self._generation, self._plain)
        positions = model.positions(None if self._job.ledger is None else [self._job.ledger])
        self._progress.begin(done=0, total=sum(positions.values()))
        found: list[Findings] = []
        for group in _groups(positions):
            with self._scratch() as scratch:
                reached = self.builder(scratch).fold_to(model.positions(group))
                if self._stop.is_set():
                    return Outcome()
                found.append(self._compared(scratch, reached))
        findings = _together(found)
        self._tell(findings)
        return Outcome(has_passed=findings.passed(), findings=findings)

    def repair(self) -> Outcome:
        """The ledger is folded beside; then, while nobody moves it on, put in place of what stands there and compared with it.

        Of one account the fold is the same, and only the account's rows are replaced. They are then what a rebuild would give:
        what operators skipped stays out of them, as it stays out of the rest of the ledger.
        """
        ledger = self._job.ledger
        assert ledger is not None  # noqa: S101 - of its kind
        model = self._model(self._generation, self._plain)
        with self._scratch() as scratch:
            builder = self.builder(scratch, leaves_out=self._job.account is not None)
            position, is_near = 0, False
            while not is_near:
                now = model.positions([ledger])
                is_near = now.get(ledger, 0) - position <= self._speed.batch_events_max
                self._progress.begin(done=position, total=now.get(ledger, 0))
                position = self._fold_to(builder, now)
                if self._stop.is_set():
                    return Outcome()
            before = self._compared(scratch, {ledger: position})
            self._replace(ledger, builder, scratch)
        what = "ledger_repaired" if self._job.account is None else "account_repaired"
        self._logger.info(what, ledger=ledger, tables_differed=len(before.differences))
        return Outcome(has_passed=True, findings=before)

    def builder(
        self,
        generation: Generation | None = None,
        *,
        is_mine: Callable[[str], bool] = lambda ledger: True,
        leaves_out: bool = True,
        speed: Speed | None = None,
        progress: Progress | None = None,
        stop: threading.Event | None = None,
    ) -> Rebuild:
        """What builds the job's generation, or another one. `leaves_out`: what operators skipped."""
        built = generation or self._generation
        return Rebuild(
            self._projection,
            log=PostgresLog(self._log),
            model=self._model(built, self._writing),
            looking=self._model(built, self._looking),
            make_keys=lambda: self._make_keys(built),
            is_mine=is_mine,
            leaves_out=leaves_out,
            speed=speed or self._speed,
            progress=progress or self._progress,
            stop=stop or self._stop,
        )

    def _size(self, model: PostgresReadModel) -> tuple[int, int, int]:
        """Events applied, events left, and in how many ledgers."""
        done = sum(model.positions().values())
        lags = model.lags()
        return done, sum(lag.head - lag.position for lag in lags), len(lags)

    def _share_out(self, owner: str, children: ChildProcesses, processes: int, looking: PostgresReadModel) -> None:
        """Several processes build, each its ledgers, this one the first's; how far they are is read from the positions they write."""
        shares = [f"{number}/{processes}" for number in range(2, processes + 1)]
        working = [children.start(self._job.id, owner, share=share) for share in shares]
        is_over = threading.Event()
        with ThreadPoolExecutor(1, "share") as executor:
            own = executor.submit(self.build_share, 1, processes, is_over)
            try:
                codes = [child.wait(0) for child in working]
                while (None in codes or not own.done()) and not any(codes) and not self._stop.is_set():
                    wait((own,), SHARE_LOOK_S)
                    codes = [child.wait(SHARE_LOOK_S if own.done() else 0) for child in working]
                    if own.done():
                        own.result()
                    self._progress.add(sum(looking.positions().values()) - self._progress.done)
            finally:
                is_over.set()
                for child in working:
                    child.stop()
            own.result()
        if any(codes):
            raise Contention("share_interrupted")

    def _replace(self, ledger: str, builder: Rebuild, scratch: Generation) -> None:
        """In one transaction, and only if afterwards the digests are equal."""
        of = {"projection": self._projection.name, "generation": self._generation.number, "ledger": ledger}
        schemas = (self._generation.schema_name, scratch.schema_name)
        with self._plain.transaction(_REPAIR) as session:
            held = session.execute(STATEMENTS["hold_position"], of).fetchone()
            now = {} if held is None else {ledger: int(held[0])}
            self._fold_to(builder, now)
            account = self._job.account
            tables = self._projection.tables if account is None else by_account(self._projection.tables)
            for name, table in tables.items():
                _put_in_place(session, name, table, of=(ledger, account), into=schemas[0], out_of=schemas[1])
            session.execute(STATEMENTS["note_repair"], of)
            if account is None:
                session.execute(STATEMENTS["lift_skips"], of | {"version": self._projection.version})
            if not self._digests.compare_schemas(session, *schemas, positions=now, account=account).passed():
                raise Corruption("repair_does_not_hold", ledger=ledger, projection=self._projection.name)

    def _fold_to(self, builder: Rebuild, now: Mapping[str, int]) -> int:
        """The one ledger is at its position there too; answers it."""
        reached = builder.fold_to(now)
        if reached != now and not self._stop.is_set():
            [(ledger, position)] = reached.items()
            raise Rejection("ledger_stands_still", ledger=ledger, position=position + 1)
        return sum(reached.values())

    def _compared(self, scratch: Generation, positions: Mapping[str, int]) -> Findings:
        schemas = (self._generation.schema_name, scratch.schema_name)
        with self._plain.transaction(COMPARISON) as session:
            session.execute(SNAPSHOT)
            return self._digests.compare_schemas(session, *schemas, positions=positions, account=self._job.account)

    def _tell(self, findings: Findings) -> None:
        """A line, which is an alert where something differs; rows stay out of it."""
        differ = sorted({f"{each.ledger}/{each.table}" for each in findings.differences})
        where = {"generation": self._job.generation, "against": self._job.against}
        say = self._logger.info if findings.passed() else self._logger.error
        outcome = "equal" if findings.passed() else "differs"
        say(f"{self._job.kind}_{outcome}", **where, ledgers=findings.ledgers, differences=differ)

    @contextmanager
    def _scratch(self) -> Iterator[Generation]:
        """A build that is nobody's generation, gone in the end; its number is the job's, below zero."""
        schema = f"{self._projection.name}_job_{self._job.id}"
        scratch = msgspec.structs.replace(self._generation, number=-self._job.id, schema_name=schema)
        of = {"projection": self._projection.name, "generation": scratch.number}
        drop = sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(schema))
        with self._plain.transaction(_SCRATCH) as session:
            session.execute(drop)
            session.execute(STATEMENTS["forget_generation"], of)
            make_schema(session, self._projection, schema, with_indexes=False)
        try:
            yield scratch
        finally:
            with self._plain.transaction(_SCRATCH) as session:
                session.execute(drop)
                session.execute(STATEMENTS["forget_generation"], of)

    def _make_keys(self, generation: Generation) -> None:
        """Keys and indexes are there: made at once where they were not, so that a crash leaves all or none."""
        with self._keys.transaction(_INDEXES) as session:
            of = {"schema": generation.schema_name}
            session.execute(STATEMENTS["hold_keys"], of)  # one of several processes makes them, the others find them
            if session.execute(STATEMENTS["has_keys"], of).fetchone() == (True,):
                return
            session.execute("set local maintenance_work_mem = '256MB'")
            make_indexes(session, self._projection, generation.schema_name)

    def _find(self) -> Generation:
        generations = PostgresGenerations(self._plain, self._projection)
        with generations.changes() as session:
            found = generations.one(session, "generation", generation=self._job.generation)
        if found is None:
            raise Rejection("generation_not_found", projection=self._projection.name, generation=self._job.generation)
        return found

    def _model(self, generation: Generation, database: Database) -> PostgresReadModel:
        return PostgresReadModel(database, projection=self._projection, generation=generation)


def _falls_to(number: int, of: int, ledger: str) -> bool:
    return crc32(ledger.encode()) % of == number


def _groups(positions: Mapping[str, int]) -> Iterator[list[str]]:
    """Ledgers together until they have as many events as one comparison is to hold; a large one alone."""
    group: list[str] = []
    events = 0
    for ledger, position in sorted(positions.items()):
        if group and events + position > GROUP_EVENTS_MAX:
            yield group
            group, events = [], 0
        group.append(ledger)
        events += position
    if group:
        yield group


def _together(found: Sequence[Findings]) -> Findings:
    """The findings of several groups as those of one comparison."""
    tables: dict[str, TableDigest] = {}
    for each in found:
        for table in each.tables:
            before = tables.get(table.table)
            tables[table.table] = (
                table
                if before is None
                else TableDigest(
                    table=table.table,
                    rows=before.rows + table.rows,
                    digest=f"{(int(before.digest, 16) + int(table.digest, 16)) % 2**64:016x}",
                    is_equal=before.is_equal and table.is_equal,
                )
            )
    return Findings(
        ledgers=sum(each.ledgers for each in found),
        events=sum(each.events for each in found),
        tables=list(tables.values()),
        ledgers_differ=sum(each.ledgers_differ for each in found),
        differences=[difference for each in found for difference in each.differences][:FIRST_DIFFERENCES],
        not_compared=[ledger for each in found for ledger in each.not_compared][:FIRST_DIFFERENCES],
    )


def _put_in_place(
    session: Connection[Row], name: str, table: Table, *, of: tuple[str, str | None], into: str, out_of: str
) -> None:
    """The rows of a ledger, or of one account of it, are those of the other schema."""
    columns = sql.SQL(", ").join(map(sql.Identifier, table.columns))
    target, source = sql.Identifier(into, name), sql.Identifier(out_of, name)
    ledger, account = of
    theirs = sql.SQL("ledger = %(ledger)s" if account is None else "ledger = %(ledger)s and address = %(account)s")
    where = {"ledger": ledger, "account": account}
    session.execute(sql.SQL("delete from {} where {}").format(target, theirs), where)
    copied = sql.SQL("insert into {} ({}) select {} from {} where {}")
    session.execute(copied.format(target, columns, columns, source, theirs), where)
