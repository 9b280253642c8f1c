"""`python -m bench reads`: what a balance as of anything costs by the length of its history, and a sum by its accounts.

For each question: median and 99th percentile over HTTP with random moments, and, counted by Postgres itself, how often the
statement goes down an index (probes) and how many pages it touches. Ends with 1 where a balance takes more probes than the bound.
"""

import random
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

import msgspec
import psycopg
import uvloop
from psycopg import ClientCursor

from bench import history, processor
from bench.generator import Measured, UnexpectedAnswer, Workload, measure
from bench.stack import Origin, Stack, keep, read, running, wait_until_visible
from bench.yardstick import server
from daybook.client import Target, find_target, ledger_path
from daybook.terminal import Exit, talk
from query_service.application.reports import AFTER_ASCII, PAIRS_MAX
from query_service.infrastructure.postgres_books import session
from query_service.infrastructure.statements import Statements
from shared_kernel.words import Pattern, format_time

PROBES_MAX: Final = (
    1_000  # chosen: years, months, days and smaller spans of an account, twice each; far below any history
)
EXPLAINED: Final = 20  # moments of a balance looked at by Postgres for each question; the most probes of them are told
SUMS_EXPLAINED: Final = 3
SUM_SECONDS_AN_ACCOUNT: Final = 0.001  # chosen: several answers, however busy the machine is
Moment = Mapping[str, Any]
"""`position`, `time` (recorded) and `effective`: what a question is as of."""
ASKED: Final[Mapping[str, tuple[str, ...]]] = {
    "newest": (),
    "position": ("position",),
    "recorded": ("time",),
    "effective": ("effective",),
    "position, effective": ("position", "effective"),
    "recorded, effective": ("time", "effective"),
    "all three": ("position", "time", "effective"),
}
SUMMED: Final = ("newest", "position", "position, effective")
PARAMETERS: Final = {"position": "as_of_position", "time": "as_of", "effective": "effective_at"}


class Subject(NamedTuple):
    """An account, or the first segment of some; how many accounts, and the entries of each."""

    name: str
    accounts: int
    entries: int


class Looked(NamedTuple):
    """What a statement took at the most."""

    probes: int
    pages: int


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Of one question on one account, or group of accounts."""

    subject: str
    accounts: int
    entries: int
    asked: str
    p50_ms: float
    p99_ms: float
    answers: int
    probes: int
    pages: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was measured."""

    name: str
    origin: Origin
    entries: int
    balances: list[Cost]
    sums: list[Cost]
    cores_elsewhere: float
    probes_max: int


def reads(
    *,
    data: Path | None = None,
    name: str = "reads",
    transactions: int = history.TRANSACTIONS,
    window: float = 1.0,
) -> int:
    """Measure what balances as of anything cost by the length of their history, and sums by their accounts.

    Parameters
    ----------
    data
        The data folder of a running stack, whose ledger is used again if it is there; without it one is started and thrown away.
    name
        What the result files are called, after the date.
    transactions
        How many, of two entries each, the ledger holds.
    window
        Seconds of asking for each question.
    """
    with running(data) as folder:
        target = find_target(data=folder, command_url=None, query_url=None, token=None)
        stack = read(folder)
        head = history.write(stack.postgres_url, transactions)
        wait_until_visible(target, history.name(transactions), head, account=history.TILL)
        report = uvloop.run(_measured(target, stack, name=name, transactions=transactions, head=head, window=window))
    keep(report, to_markdown(report), name=name, measured_at=report.origin.measured_at)
    return Exit.DONE if max(cost.probes for cost in report.balances) <= PROBES_MAX else Exit.FAULT


async def _measured(target: Target, stack: Stack, *, name: str, transactions: int, head: int, window: float) -> Report:
    asking = _Asking(target, stack, history.name(transactions), head=head, transactions=transactions, window=window)
    lengths = {history.account(length): length for length in history.LENGTHS}
    lengths |= {history.JITTERED: history.JITTERED_ENTRIES, history.TILL: transactions}
    others, began = processor.elsewhere(stack.pids), time.monotonic()
    before = others()
    with asking:
        balances = [
            await asking.balance(Subject(address, 1, entries), asked)
            for address, entries in lengths.items()
            for asked in ASKED
        ]
        sums = [
            await asking.sums(Subject(group, accounts, entries), asked)
            for group, (accounts, entries) in history.GROUPS.items()
            for asked in SUMMED
        ]
    return Report(
        name=name,
        origin=Origin.here(server(stack.postgres_url)),
        entries=2 * transactions,
        balances=balances,
        sums=sums,
        cores_elsewhere=round((others() - before) / (time.monotonic() - began), 2),
        probes_max=PROBES_MAX,
    )


class _Asking:
    """Asks one ledger, over HTTP and Postgres itself."""

    def __init__(
        self, target: Target, stack: Stack, ledger: str, *, head: int, transactions: int, window: float
    ) -> None:
        self._target = target
        self._ledger = ledger
        self._head = head
        self._window = window
        self._transactions = transactions
        self._statements = Statements.load()
        self._connection = psycopg.connect(
            stack.postgres_urls["query"], autocommit=True, cursor_factory=ClientCursor[Any]
        )

    def __enter__(self) -> None:
        self._connection.execute(session(60_000))
        [(self._begin, self._end)] = self._connection.execute(
            "select min(recorded_at), max(recorded_at) from daybook.events where ledger = %s", [self._ledger]
        ).fetchall()
        [(self._schemas,)] = self._connection.execute(self._statements.text("live", "none").encode()).fetchall()

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    async def balance(self, subject: Subject, asked: str) -> Cost:
        """Of an account."""
        statement = "effective_balances" if "effective" in ASKED[asked] else "balances"
        looked = self._look(statement, subject, asked, {"address": subject.name})
        path = ledger_path(self._ledger, "accounts", subject.name, "balances")
        return _cost(subject, asked, await self._ask(path, subject, asked), looked)

    async def sums(self, subject: Subject, asked: str) -> Cost:
        """Of a group of accounts."""
        pattern = Pattern(f"{subject.name}:*")
        places = {"high": pattern.prefix() + AFTER_ASCII, "matching": pattern.regex()}
        walk = {"segments": 0, "begin": pattern.prefix(), "begin_asset": "", "pairs_max": PAIRS_MAX}
        statement = "effective_sums" if "effective" in ASKED[asked] else "sums"
        looked = self._look(statement, subject, asked, {**places, **walk})
        path = ledger_path(self._ledger, "balances")
        return _cost(subject, asked, await self._ask(path, subject, asked, address=pattern.text), looked)

    def _moment(self, subject: Subject, asked: str, chance: random.Random) -> Moment:
        """A random one of what is asked for."""
        begin, span = history.days(subject.name, self._transactions)
        found: Moment = {
            "position": chance.randrange(self._head // 20, self._head + 1),
            "time": self._begin + chance.random() * (self._end - self._begin),
            "effective": begin + chance.random() * span,
        }
        return {name: found[name] for name in ASKED[asked]}

    async def _ask(self, path: str, subject: Subject, asked: str, **parameters: str) -> Measured:
        url = self._target.query_url
        head = (
            f" HTTP/1.1\r\nhost: {urlsplit(url).netloc}\r\nauthorization: Bearer {self._target.token('reader')}\r\n\r\n"
        )
        chance = random.Random(f"{path}/{asked}")

        def make() -> bytes:
            moment = self._moment(subject, asked, chance)
            named = {PARAMETERS[name]: _text(value) for name, value in moment.items()}
            return f"GET {path}?{urlencode({**parameters, **named}, quote_via=quote)}{head}".encode()

        def counted(answer: bytes) -> int:
            if not answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 404 ")):  # 404: not open at that moment yet
                raise UnexpectedAnswer(answer[-1000:].decode("utf-8", "replace"))
            return 1

        workload = Workload(make=make, count=counted)
        window = max(self._window, subject.accounts * SUM_SECONDS_AN_ACCOUNT)
        return await measure(url, workload, connections=1, warm_up_seconds=0.2, window_seconds=window)

    def _look(self, statement: str, subject: Subject, asked: str, places: Mapping[str, object]) -> Looked:
        """The most probes and pages that the statement took, over some moments."""
        chance = random.Random(f"{places}/{asked}")
        found = []
        for _ in range(EXPLAINED if subject.accounts == 1 else SUMS_EXPLAINED):
            moment = self._moment(subject, asked, chance)
            parameters = {
                **places,
                "ledger": self._ledger,
                "wanted": 1,
                "at": None,
                "at_position": moment.get("position"),
                "at_time": moment.get("time"),
                "effective_at": moment.get("effective"),
            }
            text = self._statements.text(statement, self._schemas).replace("{condition}", "true")
            [([explained],)] = self._connection.execute(
                f"explain (analyze, buffers, timing off, summary off, format json) {text}".encode(), parameters
            ).fetchall()
            plan = explained["Plan"]
            found.append(Looked(_probes(plan), plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]))
        return Looked(max(looked.probes for looked in found), max(looked.pages for looked in found))


def _probes(plan: Mapping[str, Any]) -> int:
    """How often an index is gone down, in a plan as Postgres explains it."""
    own = int(plan["Actual Loops"]) if plan["Node Type"].startswith("Index") else 0
    return own + sum(_probes(part) for part in plan.get("Plans", ()))


def _text(value: object) -> str:
    return format_time(value) if isinstance(value, datetime) else str(value)


def _cost(subject: Subject, asked: str, measured: Measured, looked: Looked) -> Cost:
    cost = Cost(
        subject=subject.name,
        accounts=subject.accounts,
        entries=subject.entries,
        asked=asked,
        p50_ms=measured.p50_ms,
        p99_ms=measured.p99_ms,
        answers=measured.transactions,
        probes=looked.probes,
        pages=looked.pages,
    )
    talk().print(f"{subject.name}, {asked}: p50 {cost.p50_ms:.2f} ms, p99 {cost.p99_ms:.2f} ms, {cost.probes:,} probes")
    return cost


def to_markdown(report: Report) -> str:
    """Three tables of balances, one of sums, and beneath them what was measured on what."""
    lines = [f"# {report.name}, {report.origin.measured_at}", "", f"A ledger of {report.entries:,} entries.", ""]
    cells: list[tuple[str, Callable[[Cost], str]]] = [
        ("Balances of one account, p50 · p99 ms over HTTP", lambda cost: f"{cost.p50_ms:.1f} · {cost.p99_ms:.1f}"),
        ("Probes of an index, the most of some moments", lambda cost: f"{cost.probes:,}"),
        ("Pages touched, the most of some moments", lambda cost: f"{cost.pages:,}"),
    ]
    subjects = list(dict.fromkeys((cost.subject, cost.entries) for cost in report.balances))
    for title, cell in cells:
        lines += [
            f"## {title}",
            "",
            "| account | entries | " + " | ".join(ASKED) + " |",
            "|---|---:|" + "---:|" * len(ASKED),
        ]
        for subject, entries in subjects:
            found = [cell(cost) for cost in report.balances if cost.subject == subject]
            lines.append(f"| {subject} | {entries:,} | " + " | ".join(found) + " |")
        lines.append("")
    lines += [
        "## Sums over accounts",
        "",
        "| accounts | entries of each | asked | p50 ms | p99 ms | µs an account | probes an account |",
        "|---:|---:|---|---:|---:|---:|---:|",
        *(
            f"| {cost.accounts:,} | {cost.entries:,} | {cost.asked} | {cost.p50_ms:.1f} | {cost.p99_ms:.1f} | "
            f"{cost.p50_ms * 1_000 / cost.accounts:,.0f} | {cost.probes / min(cost.accounts, PAIRS_MAX):.1f} |"
            for cost in report.sums
        ),
        "",
        f"*till* takes part in every transaction; the effective times of *{history.JITTERED}* all lie in one day and differ from their "
        f"order by seconds; {history.BACK_DATED:.0%} of all others are dated back by up to 400 days, over five years. One connection, "
        "random moments, no cache in front. A recorded time is searched for in the log (binary search in a function: its pages count, its "
        f"probes do not). A balance may take {report.probes_max:,} probes.",
        "",
        f"{report.origin.told()} Other work took {report.cores_elsewhere:.2f} of the cores meanwhile.",
        "",
    ]
    return "\n".join(lines)
