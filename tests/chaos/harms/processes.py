"""Harm to Daybook's own processes: killed, frozen, doubled, with clocks of their own."""

import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psycopg
import redis

from projections.settings import ProjectorSettings
from shared_kernel import lock_table
from shared_kernel.security import LEEWAY_SECONDS
from tests.chaos.fail_points import OF_ATOMIC_BATCHES, OF_COMMANDS, OF_PROJECTORS, OF_RELAYS, OF_SINGLES
from tests.chaos.load import ASSET
from tests.chaos.oracle import published, repeated
from tests.chaos.running import Run, Skipped, heads_of, reached, tool
from tests.chaos.stand import QUICK, More, shipped

DOOMED_TOGETHER = 6  # chosen: so many more processes start on two cores in a few seconds
LEASE_S = int(QUICK["DAYBOOK_LEASE_MS"]) / 1_000
FREE_WITHIN_S = LEASE_S + 1.0  # what a dead process held: its lease, and a second to see so
LEASE_TAKEN = OF_RELAYS[0]
PARTITIONS_GIVEN, *OF_WRITING = OF_PROJECTORS
DUPLICATES = "daybook_projector_duplicates_total"
ACTIVE_WITHIN_S = 10.0  # a relay, once the active one is gone
CAUGHT_UP_WITHIN_S = 15.0  # the read models, once a projector is gone
# So long the rows of a projector that stands still in its transaction are held.
HELD_S = shipped(ProjectorSettings, "postgres_idle_ms") / 1_000
HOUR_S = 3_600.0
WITHIN_S, OUTSIDE_S = 0.5 * LEEWAY_SECONDS, 1.5 * LEEWAY_SECONDS  # of a token's times
ABOUT_S = 1.0  # chosen: what two looks at the clock of one host may differ by
APPENDS = "daybook_append_seconds_count"
IS_ACTIVE, EPOCH = "daybook_relay_is_active", "daybook_relay_epoch"


def command_killed(run: Run) -> None:
    for _ in range(2):  # a supervisor gives up after five crashes in a minute
        run.some_time(1.5)
        pid = run.stand.pid("command")
        with redis.Redis.from_url(run.stand.redis_url, decode_responses=True) as client:
            run.stand.until(lambda pid=pid: _held_by(client, [pid]), "the command process holds no lease")  # type: ignore[misc]
            run.stand.kill("command")
            run.did.append("SIGKILL")
            with run.recovery("lease", within_s=FREE_WITHIN_S):
                run.stand.until(lambda pid=pid: not _held_by(client, [pid]), "a dead process holds a lease")  # type: ignore[misc]
        run.commands_again()
    points = run.rng.sample(OF_COMMANDS, len(OF_COMMANDS))
    for at in range(0, len(points), DOOMED_TOGETHER):
        _die_at(run, points[at : at + DOOMED_TOGETHER])
    run.did.append(f"another command process killed at each of {len(OF_COMMANDS)} named points")
    cut_off = [known for known in run.load.acknowledged if known.attempts > 1]
    assert cut_off, "no command was under way at a kill"
    differing = repeated(run.load, cut_off)
    assert not differing, differing[0]
    run.did.append(f"{len(cut_off)} commands that were under way repeated")
    run.caught_up()


def _die_at(run: Run, points: Sequence[str]) -> None:
    """A process that comes to its point ends there; what it was asked is done once, and nobody waits for what it held."""
    doomed = {}
    for point in points:
        under = ("tests.chaos.fail_points", point, str(run.rng.randint(1, 5)))
        doomed[point] = run.stand.start_more("command", under=under, settings={"DAYBOOK_LOCKS": "always"})
    for point, process in doomed.items():
        if point in OF_SINGLES:
            run.load.send_also_to(process.url)
    cut_off = {point: _batches(run, process, point) for point, process in doomed.items() if point in OF_ATOMIC_BATCHES}
    for point, process in doomed.items():
        run.stand.until(lambda process=process: process.child.poll() is not None, f"no process came to {point}")  # type: ignore[misc]
        assert process.child.returncode == -signal.SIGKILL, f"at {point} it ended with {process.child.returncode}"
        if point in OF_SINGLES:
            run.load.send_no_more_to(process.url)
    for point, key in cut_off.items():
        first, again = (run.load.post("/v1/batches", _batch(run), key) for _ in range(2))
        told = [(status, text.replace(b',"replay":true', b"")) for status, text in (first, again)]
        assert told[0] == told[1], f"the batch cut off at {point} was answered {first} and {again}"
        assert first[0] == 200, f"the batch cut off at {point} was answered {first}"
    dead = [process.child.pid for process in doomed.values()]
    with (
        run.recovery("locks", within_s=FREE_WITHIN_S),
        redis.Redis.from_url(run.stand.redis_url, decode_responses=True) as client,
    ):
        run.stand.until(lambda: not _held_by(client, dead), "a dead process holds locks")


def _batches(run: Run, doomed: More, point: str) -> str:
    """Sends batches across ledgers until the process is gone; answers the key of the last, which nobody answered."""
    for number in range(100):
        key = f"{run.load.ledgers[0]}:{point.replace(' ', '-')}:{number}"
        answer = run.load.try_at(doomed.url, "/v1/batches", _batch(run), key)
        if answer is None:
            return key
        assert answer[0] in (200, 409, 503), f"a batch was answered {answer}"
    raise AssertionError(f"a hundred batches, and the process never came to {point}")


def _batch(run: Run) -> dict[str, Any]:
    """One transaction in each ledger, each of which is possible at any time."""
    sides = (("debit", "world"), ("credit", "bank"))
    entries = [{"account": account, "direction": side, "amount": 1, "asset": ASSET} for side, account in sides]
    return {
        "commands": [
            {"ledger": ledger, "type": "post_transaction", "data": {"entries": entries}} for ledger in run.load.ledgers
        ]
    }


def _held_by(client: "redis.Redis", pids: Sequence[int]) -> list[str]:
    """The locks that these processes of this machine hold."""
    found = []
    for key in client.scan_iter(match=lock_table.PATTERN, count=1_000):
        place = lock_table.read_key(key)
        if place is not None and place.name != lock_table.WRITERS:
            value = lock_table.read_value(str(client.get(key)))
            if value is not None and value.state == "held" and any(f"-{pid}-" in value.worker for pid in pids):
                found.append(key)
    return found


def relay_killed(run: Run) -> None:
    with run.without_gaps():
        run.stand.kill("relay")
        run.did.append("SIGKILL of the relay")
        run.published_again(within_s=ACTIVE_WITHIN_S)
        dropped = run.stand.figure("projector", DUPLICATES)
        for point in run.rng.sample(OF_RELAYS, len(OF_RELAYS)):
            _active_until(run, "relay", point)
            run.published_again(within_s=ACTIVE_WITHIN_S)
        run.did.append(f"another relay killed at each of {len(OF_RELAYS)} named steps, while the first was frozen")
        run.caught_up()
        assert run.stand.figure("projector", DUPLICATES) > dropped, "nothing came twice"
        run.stand.start_more("relay")
        with run.stand.frozen("relay"):
            frozen_at = time.monotonic()
            run.did.append(
                f"a second relay; SIGSTOP of the first for {2 * LEASE_S:.0f} s, its lease is {LEASE_S:.0f} s"
            )
            run.published_again(within_s=ACTIVE_WITHIN_S)
            time.sleep(max(0.0, frozen_at + 2 * LEASE_S - time.monotonic()))
        run.more_commands(20)
        run.caught_up()


def _active_until(run: Run, part: str, point: str) -> None:
    """Another process does the work of the part, which is frozen, and dies at this step of it."""
    nth = 1 if point == LEASE_TAKEN else run.rng.randint(1, 3)  # it takes it once
    more = run.stand.start_more(part, under=("tests.chaos.fail_points", point, str(nth)))
    with run.stand.frozen(part):
        run.stand.until(lambda: more.child.poll() is not None, f"no {part} came to: {point}")
    assert more.child.returncode == -signal.SIGKILL, f"at {point} it ended with {more.child.returncode}"


def projector_killed(run: Run) -> None:
    run.some_time(1.5)
    run.stand.kill("projector")
    run.did.append("SIGKILL of the projector")
    run.caught_up(within_s=CAUGHT_UP_WITHIN_S)
    for point in OF_WRITING:
        _active_until(run, "projector", point)
        run.caught_up(within_s=CAUGHT_UP_WITHIN_S)
    run.did.append(f"another projector killed at each of {len(OF_WRITING)} named steps, while the first was frozen")
    given = run.stand.start_more("projector", under=("tests.chaos.fail_points", PARTITIONS_GIVEN, "1"))
    run.stand.until(lambda: given.child.poll() is not None, "it was given no partitions")
    assert given.child.returncode == -signal.SIGKILL, f"it ended with {given.child.returncode}"
    run.did.append("a second projector, SIGKILL of it when partitions were given to it")
    run.more_commands(20)
    run.caught_up(within_s=CAUGHT_UP_WITHIN_S)


def deployed(run: Run) -> None:
    """A new release writes what the old one cannot read; they run side by side, and then the new one alone."""
    run.stand.is_spent = True  # there is no way back
    newer = {"PYTHONPATH": str(Path(__file__).parents[1] / "next_release")}
    parts = ("command", "query", "relay", "projector", "clock")
    began_with = {part: run.stand.pid(part) for part in parts}
    more = run.stand.start_more("command", settings=newer)
    run.load.send_also_to(more.url)
    run.did.append("a command process of the next release beside the old ones")
    stands_still = "select state, error_class from projections.waiting where ledger = any(%s)"
    with run.stand.admin() as admin:
        run.stand.until(lambda: admin.execute(stands_still, [run.load.ledgers]).fetchone(), "no ledger waits")
        run.more_commands(60)
        found = set(admin.execute(stands_still, [run.load.ledgers]).fetchall())
        assert found == {("waiting", "UnknownEventType")}, f"the ledgers stand still: {found}"
        for part in parts:
            assert run.stand.pid(part) == began_with[part], f"the old {part} has crashed"
        run.did.append("old projectors wait at the new events")
        with run.stand.processes_stopped(**newer):
            pass
        run.load.send_no_more_to(more.url)
        run.stand.end_more()
        run.did.append("all processes of the next release")
        run.commands_again()
        run.caught_up()
        assert not admin.execute(stands_still, [run.load.ledgers]).fetchall(), "ledgers still stand still"


def clocks_skewed(run: Run) -> None:
    skew = _skew(run)
    clock = run.stand.data / "clock"
    clock.write_text("+1h\n")
    jumping = {name: value for name, value in skew("").items() if name != "FAKETIME"}
    jumping |= {"FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_CACHE_DURATION": "1"}
    more = run.stand.start_more("command", settings=jumping)
    run.load.send_also_to(more.url)
    run.did.append("half of all commands sent to a process an hour ahead")
    run.more_commands(60)
    _tokens_keep_their_leeway(run, more.url, HOUR_S)
    assert run.stand.figure_at(more.url, APPENDS) > 0, "the process an hour ahead has appended nothing"
    clock.write_text("+0\n")
    time.sleep(2)
    run.more_commands(60)
    assert more.child.poll() is None, f"a process whose clock went back has ended: {more.child.returncode}"
    assert run.stand.is_ready_at(more.url), "a process whose clock went back is not ready"
    run.did.append("its clock set back by an hour")
    behind_url = run.stand.start_more("command", settings=skew("-1h")).url
    made_now = run.stand.stack.tokens["writer"]
    assert not run.load.is_taken_at(behind_url, made_now), "a process an hour behind took a token made in its future"
    _tokens_keep_their_leeway(run, behind_url, -HOUR_S)
    run.did.append(
        f"tokens refused {OUTSIDE_S:.0f} s outside their time by the clocks of both, and taken {WITHIN_S:.0f} s"
    )
    run.load.send_no_more_to(more.url)
    run.stand.end_more()
    run.commands_again()
    _recorded_when_they_were_sent(run)
    for offset in ("+1h", "-1h"):
        _stands_by(run, offset, skew)
        _works_alone(run, "relay", offset, skew, is_done=published, within_s=ACTIVE_WITHIN_S)
        _works_alone(run, "projector", offset, skew, is_done=reached, within_s=HELD_S + CAUGHT_UP_WITHIN_S)
    run.did.append(
        "a relay an hour ahead and an hour behind beside the active one; then it and a projector, alone at work"
    )
    run.caught_up()


def _tokens_keep_their_leeway(run: Run, url: str, offset_s: float) -> None:
    """A process whose clock is off by so much takes tokens that have just expired or are just to come by its own clock, and no others."""
    for outside_s, is_good in ((WITHIN_S, True), (OUTSIDE_S, False)):
        now = time.time() + offset_s
        expired = run.stand.token(issued_at=now - HOUR_S, expires_at=now - outside_s)
        to_come = run.stand.token(issued_at=now + outside_s, expires_at=now + HOUR_S)
        for what, token in (("expired", expired), ("to come", to_come)):
            is_taken = run.load.is_taken_at(url, token)
            assert is_taken == is_good, f"a token {what} by {outside_s:.0f} s was {'taken' if is_taken else 'refused'}"


def _recorded_when_they_were_sent(run: Run) -> None:
    """Every command stands in the log at a time of the database's clock at which it was on its way."""
    with run.stand.admin() as admin:
        [(now,)] = admin.execute("select extract(epoch from clock_timestamp())::float8").fetchall()
        since = now - time.monotonic()
        at = {
            (ledger, position): recorded_at - since
            for ledger, position, recorded_at in admin.execute(
                "select ledger, position, extract(epoch from recorded_at)::float8 from daybook.events where ledger = any(%s)",
                [run.load.ledgers],
            )
        }
    for known in [known for known in run.load.acknowledged if (known.ledger, known.position) in at]:
        recorded = at[known.ledger, known.position]
        assert known.first - ABOUT_S <= recorded <= known.ended + ABOUT_S, (
            f"{known.key} was recorded {recorded - known.ended:.0f} s after its answer"
        )


def _stands_by(run: Run, offset: str, skew: Callable[[str], dict[str, str]]) -> None:
    """A relay at this time leaves the lease to the one that renews it."""
    with run.stand.admin() as admin:
        run.stand.until(
            lambda: run.stand.figure("relay", EPOCH) == _relay_lease(admin), "the relay does not take its lease again"
        )
        epoch = _relay_lease(admin)
        more = run.stand.start_more("relay", settings=skew(offset))
        until = time.monotonic() + 2 * LEASE_S
        while time.monotonic() < until:
            run.more_commands(5)
            assert not run.stand.figure_at(more.url, IS_ACTIVE), (
                f"the relay at {offset} publishes beside the active one"
            )
            assert _relay_lease(admin) == epoch, f"the relay at {offset} took the lease from the one that renews it"
    run.stand.end_more()


def _relay_lease(admin: "psycopg.Connection[Any]") -> int:
    """The epoch of the relay's lease, which ends no later than it may by the database's clock."""
    [(epoch, left_s)] = admin.execute(
        "select epoch, extract(epoch from expires_at - clock_timestamp())::float8 from projections.relay_lease"
    ).fetchall()
    assert left_s <= LEASE_S, f"the relay's lease lasts for another {left_s:.0f} s, and may for {LEASE_S:.0f} s"
    return int(epoch)


def _works_alone(
    run: Run,
    part: str,
    offset: str,
    skew: Callable[[str], dict[str, str]],
    *,
    is_done: Callable[["psycopg.Connection[Any]", dict[str, int]], bool],
    within_s: float,
) -> None:
    """Another process at this time does what there is to do while the one that is there stands still."""
    more = run.stand.start_more(part, settings=skew(offset))
    with run.stand.frozen(part), run.stand.admin() as admin:
        run.more_commands(30)
        heads = heads_of(admin, run.load.ledgers)
        with run.recovery(f"{part} at {offset}", within_s=within_s):
            run.stand.until(lambda: is_done(admin, heads), f"the {part} at {offset} does nothing")
        _relay_lease(admin)
    assert more.child.poll() is None, f"the {part} at {offset} has ended: {more.child.returncode}"
    run.stand.end_more()


def _skew(run: Run) -> Callable[[str], dict[str, str]]:
    """What makes a process live at another time. Skipped where nothing here can."""
    library = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
    if library is None:
        raise Skipped("libfaketime is not installed (Debian: faketime)")
    compiler = shutil.which("cc")
    if compiler is None:
        raise Skipped("no C compiler: libfaketime alone makes librdkafka wait for an hour (see c11_waits.c)")
    waits = run.stand.data / "c11_waits.so"
    source = Path(__file__).parents[1] / "c11_waits.c"
    tool(Path(compiler), "-shared", "-fPIC", "-O1", "-o", str(waits), str(source))
    return lambda offset: {
        "LD_PRELOAD": f"{library}:{waits}",
        "FAKETIME": offset,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
