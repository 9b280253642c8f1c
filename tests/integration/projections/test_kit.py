"""Projections that packages bring: the one of docs/projections.md, and those that are refused while the others run on."""

import re
import secrets
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from projections.application.ports import Unusable
from projections.domain.projection import Projection, Table
from shared_kernel.events import HoldPosted, TransactionPosted, decode
from tests.integration.projections.conftest import Kit, until
from tests.integration.projections.packages import GROUP, install
from tests.integration.projections.processes import Process, Processes
from tests.services import Database, Servers
from tests.support.histories import transfer
from tests.support.lives import books
from tests.support.plain_books import read_log

pytestmark = [pytest.mark.long, pytest.mark.thorough]
PAGE = (Path(__file__).parents[3] / "docs" / "projections.md").read_text("utf-8")
MODULE_LINES_MAX = 60

PLAIN = Projection(
    name="plain",
    version=1,
    schema="create table things (ledger text, position bigint);",
    tables={"things": Table(columns=("ledger", "position"))},
    project=lambda read, state: {},
)


def blocks(language: str) -> list[str]:
    """The page's blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def processes(database: Database, stack: Servers, tmp_path: Path) -> Iterator[Processes]:
    made = Processes(database, stack, f"t.{secrets.token_hex(6)}", tmp_path)
    yield made
    made.end()


def test_the_projection_of_the_page_is_installed_fed_and_read_and_refused_ones_beside_it_disturb_nobody(
    kit: Kit, processes: Processes, tmp_path: Path
) -> None:
    [module], [package] = blocks("python"), blocks("toml")
    assert len(module.splitlines()) <= MODULE_LINES_MAX
    described = tomllib.loads(package)["project"]
    target = tmp_path / "site"
    install(target, described["name"], module, described["entry-points"][GROUP])
    install(target, "bad", BAD, {name: f"bad:{name.upper()}" for name in ("reaching", "nothing", "absent", "books")})
    install(target, "worse", "import nowhere_at_all", {"worse": "worse:X"})
    for ledger in ("bank", "shop"):
        kit.append(ledger, list(books(ledger, 80)))

    processes.start("relay")
    projector = processes.start("projector", PYTHONPATH=str(target), DAYBOOK_PROJECTIONS="").started()
    heads = dict(kit.rows("select ledger, position from daybook.ledgers"))
    of_each = "select ledger, position from projections.positions where projection = %s"
    for projection in ("books", "periods", "daily_volume"):
        until(lambda projection=projection: dict(kit.rows(of_each, projection)) == heads)  # type: ignore[misc]
    kit.assert_complete()

    counts, volumes = Counter[tuple[str, str, str]](), Counter[tuple[str, str, str]]()
    for event in read_log(kit.admin):
        what = decode(event.type, event.data)
        if isinstance(what, TransactionPosted | HoldPosted):
            debits = [entry for entry in what.entries if entry.direction == "debit"]
            for asset in {entry.asset for entry in debits}:
                subject = (event.ledger, asset, event.recorded_at.strftime("%Y-%m-%d"))
                counts[subject] += 1
                volumes[subject] += sum(entry.amount for entry in debits if entry.asset == asset)
    schema, volume_of_bank = blocks("sql")
    assert kit.rows(schema) == [("daily_volume_1",)]
    assert kit.rows(volume_of_bank) == [
        (asset, day, counts[ledger, asset, day], volumes[ledger, asset, day])
        for ledger, asset, day in sorted(counts)
        if ledger == "bank"
    ]
    assert volumes

    assert not projector.ready()
    for refused in ("reaching", "absent", "nothing", "books", "worse"):
        assert re.search(rf'"event":"projection_unusable".*"projection":"{refused}"', projector.log.read_text()), (
            refused
        )
    assert projector.says("permission denied for schema daybook")
    listed = {each["projection"]: each for each in projector.ask("GET", "/projections")[1]["data"]}
    troubles = {name: each["trouble"] for name, each in listed.items() if each["state"] == "absent"}
    assert troubles == dict.fromkeys(("absent", "nothing", "reaching", "worse"), "projection_unusable")
    assert projector.ask("GET", "/projections/worse")[1]["projection"]["trouble"] == "projection_unusable"
    assert projector.ask("POST", "/projections/worse/rebuild")[1]["code"] == "projection_not_found"
    assert kit.rows("select projection from projections.generations order by 1") == [
        ("books",),
        ("daily_volume",),
        ("periods",),
    ]
    assert projector.stop() == 0


BAD = """
from projections.domain.projection import Projection, Table

def made(name, schema):
    table = Table(columns=("ledger", "position"))
    return Projection(name=name, version=1, schema=schema, tables={"t": table}, project=lambda read, state: {})

REACHING = made("reaching", "create view t as select ledger, position from daybook.events")
ABSENT = made("absent", "create table other (n int)")
BOOKS = made("books", "create table t (ledger text, position bigint)")
NOTHING = 7
"""


TALLY = """
import time
from projections.domain.projection import Projection, Table

def project(read, state):
    {slowly}
    ledger = read.recorded.ledger
    before = state["tallies", ledger]
    return {{"tallies": [(ledger, read.recorded.position, {step} + (0 if before is None else before[2]))]}}

TALLY = Projection(
    name="tally",
    version={version},
    schema="create table tallies (ledger text collate \\"C\\" not null, position bigint not null, count bigint not null);",
    keys="alter table tallies add primary key (ledger, position);",
    tables={{"tallies": Table(columns=("ledger", "position", "count"), key=1)}},
    project=project,
)
"""


def test_while_a_newer_version_builds_processes_of_the_old_one_keep_what_readers_see_fresh(
    kit: Kit, processes: Processes, tmp_path: Path
) -> None:
    slowly = {
        1: "",
        2: "time.sleep(0.02)",
    }  # the new one takes twenty milliseconds an event, so that there is a meanwhile
    for version in (1, 2):
        module = TALLY.format(version=version, step=version, slowly=slowly[version])
        (tmp_path / f"v{version}").mkdir()
        install(tmp_path / f"v{version}" / "site", "tally", module, {"tally": "tally:TALLY"})

    def start(version: int) -> Process:
        site = str(tmp_path / f"v{version}" / "site")
        small = {"DAYBOOK_BATCH_EVENTS_MAX": "20", "DAYBOOK_SWAP_BEHIND_MAX": "0"}
        return processes.start("projector", PYTHONPATH=site, DAYBOOK_PROJECTIONS="tally", **small).started()

    def positions(generation: int) -> dict[str, int]:
        of = "select ledger, position from projections.positions where projection = 'tally' and generation = %s"
        return dict(kit.rows(of, generation))

    kit.append("bank", list(books("bank", 150)))
    processes.start("relay")
    old = start(1)
    until(lambda: positions(1) == dict(kit.rows("select ledger, position from daybook.ledgers")))
    new = start(2)
    until(lambda: positions(2))
    followed = 0
    while kit.live("tally") == 1 and positions(2).get("bank", 0) < 100:
        head = kit.append("bank", [transfer(f"meanwhile-{followed}", 5)])
        until(lambda head=head: positions(1)["bank"] == head)  # type: ignore[misc]
        followed += kit.live("tally") == 1 and positions(2).get("bank", 0) < head
    assert followed > 1, "the new version was there before anything happened"
    assert new.figure("projector_is_building") == 1
    until(lambda: kit.live("tally") == 2)
    head = kit.append("bank", [transfer("after", 5)])
    until(
        lambda: positions(1)["bank"] == positions(2)["bank"] == head
    )  # each feeds its own, so that a rollback is possible
    counted = "select max(count) from tally_{}.tallies where ledger = 'bank'"
    assert [kit.rows(counted.format(version)) for version in (1, 2)] == [[(head,)], [(2 * head,)]]
    assert (old.stop(), new.stop()) == (0, 0)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("create table public.things (n int)", "42501"),
        ("drop table plain_1.things", "42501"),
        ("insert into projections.live values ('plain', 7)", "42501"),
        ("create view things as select * from daybook.events", "42501"),
        ("create schema elsewhere", "42501"),
        ("create table things (", "42601"),
        ("create table things (ledger text, position bigint); commit; create table more ()", "0A000"),
        ("create table things (ledger text, position bigint); select 1 / 0", "22012"),
        ("create table things (ledger text, position bigint); reset role", "role_left"),
        ("create table things (ledger text)", "column_missing"),
    ],
)
def test_sql_that_fails_or_reaches_elsewhere_is_refused_and_leaves_nothing(kit: Kit, schema: str, reason: str) -> None:
    kit.generations(PLAIN).prepare()
    refused = msgspec.structs.replace(PLAIN, name="refused", schema=schema)
    with pytest.raises(Unusable) as caught:
        kit.generations(refused).prepare()
    assert (caught.value.code, caught.value.fields["reason"]) == ("projection_unusable", reason)
    assert kit.rows("select projection from projections.generations") == [("plain",)]
    assert kit.rows("select nspname from pg_namespace where nspname in ('refused_1', 'elsewhere')") == []
    assert kit.rows("select count(*) from plain_1.things") == [(0,)]


def test_what_a_projection_made_belongs_to_the_projector_and_no_other_projection_reaches_it(kit: Kit) -> None:
    kit.generations(PLAIN).prepare()
    owners = "select tableowner from pg_tables where schemaname = 'plain_1'"
    assert kit.rows(owners) == [("daybook_projector",)]
    rights = "select has_schema_privilege('daybook_builder', 'plain_1', 'usage, create')"
    assert kit.rows(rights) == [(False,)]
