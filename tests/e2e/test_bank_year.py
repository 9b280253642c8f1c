"""The bank's year through the whole of Daybook, started as an operator starts it, and every process killed under load."""

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from daybook.client import Target, find_target
from daybook.stack.layout import Layout
from daybook.stack.stack_file import read_state
from shared_kernel.errors import DaybookError
from tests.e2e.bank import (
    ASSET,
    ROOT,
    Books,
    Row,
    SteadyLoad,
    check_books,
    check_positions,
    read_rows,
    source,
    sums,
    wait_until,
)
from tests.services import daybook
from tests.support.plain_text import beancount_sums, hledger_sums

pytestmark = pytest.mark.long
YEAR_SECONDS_MAX = 60  # the bound, from the first post to the last balance visible
UP_SECONDS_MAX = 240  # a first run downloads Kafka
BACK_SECONDS_MAX = 90  # Kafka is back after about 10 s on a busy machine; three times that and more
PROCESSES = ("command", "query", "relay", "projector", "clock", "monitor", "postgres", "redis", "kafka")


class _Summary(msgspec.Struct):
    posted: int
    replayed: int
    position: int
    seconds: float
    troubles: list[msgspec.Raw]


class Bank(msgspec.Struct, frozen=True):
    """A running stack with the year loaded into `ledger`; `visible_seconds` from the first post to the last balance."""

    folder: Path
    target: Target
    ledger: str
    commands: Path
    rows: list[Row]
    first: _Summary
    visible_seconds: float

    def load(self) -> _Summary:
        return load(self.folder, self.commands, self.ledger)

    def accounts(self) -> set[str]:
        """All that the year's commands name; their metadata names accounts of other banks besides."""
        return set(re.findall(r'"account":"(bank:[^"]+)","direction"', self.commands.read_text()))

    def pids(self) -> dict[str, int]:
        """The running parts that are ready, by name: what `daybook status` reads, without a process for each look."""
        state = read_state(Layout.at(self.folder))
        assert state is not None
        return {part.name: part.pid for part in state.parts if part.pid is not None and part.state == "ready"}


def load(folder: Path, commands: Path, ledger: str) -> _Summary:
    said = daybook("load", str(commands), "--ledger", ledger, "--json", data=folder, within_s=240).stdout
    return msgspec.json.decode(said, type=_Summary)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    """Not below pytest's own folder, which the next pytest closes to the servers' user; the logs are kept there."""
    with tempfile.TemporaryDirectory(prefix="daybook-bank-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        data = Path(folder) / "data"
        daybook("up", "--detach", "--owner", str(os.getpid()), data=data, within_s=UP_SECONDS_MAX)
        try:
            yield _with_the_year(data)
        finally:
            daybook("down", data=data, within_s=120)
            shutil.copytree(data / "logs", tmp_path_factory.mktemp("bank") / "logs")


def _with_the_year(data: Path) -> Bank:
    commands = data / "year.ndjson"
    with commands.open("wb") as lines:
        converter = ROOT / "examples" / "berka" / "convert.py"
        subprocess.run([sys.executable, str(converter), str(source())], check=True, stdout=lines, timeout=60)
    rows = read_rows(source())
    target = find_target(data=data, command_url=None, query_url=None, token=None)
    ledger = f"bank-{secrets.token_hex(4)}"  # of its own, also where the servers are somebody's and keep their data
    began = time.monotonic()
    first = load(data, commands, ledger)
    books = Books(target, ledger, first.position)
    books.posted(rows[-1].account)
    visible_seconds = time.monotonic() - began
    books.close()
    return Bank(
        folder=data,
        target=target,
        ledger=ledger,
        commands=commands,
        rows=rows,
        first=first,
        visible_seconds=visible_seconds,
    )


def test_the_year_is_visible_within_a_minute_and_every_balance_is_the_plain_sum_of_its_rows(
    bank: Bank, tell: Callable[[str], None]
) -> None:
    tell(
        f"{len(bank.rows)} rows of {source().name}: posted in {bank.first.seconds:.1f} s, "
        f"{len(bank.rows) / bank.first.seconds:,.0f}/s; the last balance visible after {bank.visible_seconds:.1f} s"
    )
    assert bank.first.troubles == []
    assert bank.first.posted == len(bank.rows)
    assert bank.visible_seconds <= YEAR_SECONDS_MAX
    books = Books(bank.target, bank.ledger, bank.first.position)
    assert check_books(books, bank.rows) == bank.first.position
    books.close()


@pytest.mark.thorough
def test_a_second_load_changes_nothing(bank: Bank) -> None:
    again = bank.load()
    assert (again.posted, again.replayed, again.troubles) == (0, len(bank.rows), [])
    books = Books(bank.target, bank.ledger)
    assert check_positions(books) == bank.first.position
    books.close()


@pytest.mark.thorough
@pytest.mark.parametrize("program", ["hledger", "beancount"])
def test_plain_text_accounting_reports_the_banks_balances(bank: Bank, tmp_path: Path, program: str) -> None:
    journal = tmp_path / f"year.{program}"
    position = str(bank.first.position)
    told = daybook(
        *("export", bank.ledger, "--as", program, "--as-of-position", position, "--to", str(journal)),
        data=bank.folder,
        within_s=120,
    )
    assert f"as of position {position}" in told.stderr
    if program == "hledger":
        found = hledger_sums(journal)
    else:
        found = beancount_sums(journal, dict.fromkeys(bank.accounts(), "credit"), {ASSET})
    # All accounts were opened by their first use, and so are credit-normal; a journal counts debits.
    clients = {account: -units for (account, _), units in found.items() if account.startswith("bank:clients:")}
    assert clients == {account: units for account, units in sums(bank.rows).items() if units}
    with closing(Books(bank.target, bank.ledger, bank.first.position)) as books:
        others = {account for account in bank.accounts() if not account.startswith("bank:clients:")}
        assert {account: found[account, ASSET] for account in others} == {
            account: -books.posted(account) for account in others
        }


def test_the_years_log_breaks_no_rule_of_the_books(bank: Bank, tmp_path: Path) -> None:
    log = tmp_path / "year.ndjson"
    daybook("export", bank.ledger, "--to", str(log), data=bank.folder, within_s=120)
    told = daybook("import", str(log), "--ledger", bank.ledger, "--check", "--json", within_s=120).stdout
    summary = msgspec.json.decode(told)
    assert (summary["events"], summary["findings"]) == (bank.first.position, [])
    assert summary["accounts"] == len(bank.accounts())


@pytest.mark.timeout(600)
@pytest.mark.thorough
def test_every_process_killed_under_load_comes_back_and_nothing_acknowledged_is_lost(
    bank: Bank, tell: Callable[[str], None]
) -> None:
    ledger = f"load-{secrets.token_hex(4)}"
    figures = []
    load_books = Books(bank.target, ledger)
    steady = SteadyLoad(bank.target, ledger)
    steady.open()
    with steady:
        running = bank.pids()
        killed = [name for name in PROCESSES if name in running]  # servers given by URL are not ours to kill
        assert {"command", "query", "relay", "projector"} <= set(killed)
        for name in killed:
            steady.wait_for_more(20, BACK_SECONDS_MAX)
            pid = bank.pids()[name]
            began = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            wait_until(
                lambda name=name, pid=pid: bank.pids().get(name, pid) != pid,  # type: ignore[misc]
                BACK_SECONDS_MAX,
                f"{name} did not come back",
            )
            steady.wait_for_more(20, BACK_SECONDS_MAX)
            reached = steady.position
            wait_until(
                lambda reached=reached: _is_visible(bank.target, ledger, reached),  # type: ignore[misc]
                BACK_SECONDS_MAX,
                f"position {reached} did not become visible after {name} was killed",
            )
            figures.append(f"{name} {time.monotonic() - began:.1f} s")
    tell(
        f"killed under load and all visible again: {', '.join(figures)}; {len(steady.acknowledged)} acknowledged, "
        f"the longest after {steady.longest_seconds:.1f} s"
    )
    assert steady.faults == []
    # The log holds each acknowledged command once, and nothing that was never acknowledged: each was repeated until it was.
    keys = Counter(event.metadata.key for event in load_books.events() if event.type == "TransactionPosted.v1")
    assert keys == Counter(steady.acknowledged)
    head = check_positions(load_books)
    load_books.close()
    at_head = Books(bank.target, ledger, head)
    assert {account: at_head.posted(account) for account in steady.expected} == dict(steady.expected)
    assert at_head.trial_balance().difference == 0
    assert Counter(at_head.references()) == keys
    at_head.close()
    books = Books(bank.target, bank.ledger, bank.first.position)
    assert check_books(books, bank.rows) == bank.first.position
    books.close()


def _is_visible(target: Target, ledger: str, position: int) -> bool:
    books = Books(target, ledger, position)
    try:
        return books.trial_balance().difference == 0
    except DaybookError:  # the query service is not back yet, or the books are behind
        return False
    finally:
        books.close()
