"""What `daybook locks` shows of a look, of alerts and of the history: everything that the monitor sees, and who it is."""

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import msgspec
import pytest
from rich.console import Console, RenderableType

from daybook.cli import locks
from daybook.client import Answer, Client
from daybook.monitor.domain.alerts import Episode
from daybook.monitor.domain.looks import Chain, Lock, Look, Process, Session, Standing, Waiter
from shared_kernel.errors import Unavailable

AT = datetime(2026, 11, 29, 6, 0, tzinfo=UTC)
ROOT = Session(
    pid=4711,
    user="anna",
    application="psql",
    database="daybook",
    is_client=True,
    state="idle in transaction",
    began_at=AT,
    transaction_ms=35_000,
    state_ms=34_000,
)
WAITER = Waiter(
    pid=12, application="daybook command", waiting_ms=700, waits_for="ShareLock of transactionid", depth=1, query=""
)
LOOK = Look(
    taken_at=AT,
    taken_by="host/1",
    sessions=[ROOT],
    chains=[Chain(root=ROOT, waiters=[WAITER], blocking_ms=33_200)],
    blockers=[],
    locks=[
        Lock(key="relay", kind="relay", ledger="", holder="host-9", left_ms=-42_500, held_ms=None),
        Lock(key="k", kind="lease", ledger="bank", holder="host-7", left_ms=5_000, held_ms=9_000),
    ],
    lags=[],
    standing=[
        Standing(projection="books", ledger="bank", state="parked", position=8, error_class="KeyError", since_ms=1)
    ],
    processes=[
        Process(url="http://command/metrics", queue_depth=17, open_breakers=["redis"]),
        Process(url="http://query/metrics", fault="TimeoutError"),
    ],
    deadlocks={"daybook": 3, "other": 0},
    skipped={},
)
CHAIN: dict[str, Any] = {
    "pid": 4711, "user": "anna", "application": "psql", "database": "daybook", "state": "idle in transaction",
    "transaction_ms": 35_000, "query": "secret", "blocking_ms": 33_200, "waiters": 4, "waiting_ms": 700,
    "waiting_application": "daybook command",
}  # fmt: skip


class Monitor:
    """Answers what it was told to."""

    def __init__(self, *alerts: Episode) -> None:
        self._answers = {
            "/v1/operations/locks": {"look": LOOK, "age_ms": 1_500},
            "/v1/operations/alerts": {"data": alerts},
        }

    def get(self, path: str) -> Answer:
        body = msgspec.json.encode(self._answers[path])
        return Answer(status=200, body=body, position=None, is_replay=False)


class SilentMonitor:
    def get(self, path: str) -> Answer:
        raise Unavailable("unreachable", detail="timed out")


def episode(kind: Any, subject: str, **detail: Any) -> Episode:
    return Episode(
        kind=kind,
        subject=subject,
        first_seen_at=AT,
        last_seen_at=AT + timedelta(minutes=1),
        raised_at=AT,
        detail=detail,
    )


def text_of(picture: RenderableType) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(picture)
    return captured.get()


def test_everything_that_the_monitor_saw_is_shown() -> None:
    shown = text_of(locks._picture(cast("Client", Monitor(episode("blocked_chain", "x", **CHAIN)))))
    for part in (
        "4711 anna psql holds up 1 for 33.2 s",
        "http://command/metrics  17 ",
        "redis",
        "does not answer (TimeoutError)",
        "3 in daybook",
        "KeyError",
        "ended 42.5 s ago",
    ):
        assert part in shown, shown
    (relay,) = [line.split() for line in shown.splitlines() if line.startswith("relay")]
    assert relay[:3] == ["relay", "host-9", "-"]


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (
            episode("blocked_chain", "x", **CHAIN),
            "pid 4711 anna psql in daybook, idle in transaction, open for 35.0 s, holds up 4 for 33.2 s (daybook command)",
        ),
        (
            episode("long_transaction", "x", **CHAIN),
            "pid 4711 anna psql in daybook, idle in transaction, open for 35.0 s",
        ),
        (episode("overdue_lease", "h", holder="h", first="bank", reason="it ran out"), "h (bank): it ran out"),
        (episode("relay_lag", "relay", events=7, lag_ms=31_000), "relay: events 7, lag 31.0 s"),
    ],
)
def test_a_finding_says_who_it_is(found: Episode, told: str) -> None:
    shown = text_of(locks._findings([found]))
    assert told in shown
    assert "secret" not in shown


def test_a_monitor_that_falls_silent_is_said_to_while_it_is_watched() -> None:
    shown = text_of(locks._picture_or_fault(cast("Client", SilentMonitor())))
    assert shown.startswith("the monitor gives no answer: unreachable")
