"""`daybook projections …` and `daybook relay status` against a real local stack: what an operator types, sees, and gets as exit code."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from daybook.__main__ import main
from daybook.terminal import Exit
from tests.services import daybook, folder_for_servers

pytestmark = [pytest.mark.long, pytest.mark.thorough]
START_WITHIN_S = 240  # the first run on a machine downloads the jars
TRANSACTIONS = 40


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    """A stack with two ledgers, up for all tests of this module."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
    with folder_for_servers() as folder:
        data = folder / "data"
        try:
            daybook("up", "--detach", "--owner", str(os.getpid()), data=data, within_s=START_WITHIN_S, env=env)
            for ledger in ("bank", "shop"):
                lines = folder / f"{ledger}.ndjson"
                lines.write_text("".join(f"{json.dumps(posting(number))}\n" for number in range(TRANSACTIONS)))
                daybook("load", str(lines), "--ledger", ledger, "--open", data=data, env=env)
            yield data
        finally:
            daybook("down", data=data)


def posting(number: int) -> dict[str, Any]:
    """One element of a file that `daybook load` takes."""
    entries = [
        {"account": account, "direction": direction, "amount": number + 1, "asset": "CZK/2"}
        for account, direction in (("bank:cash", "debit"), (f"users:{number % 5}", "credit"))
    ]
    return {"type": "post_transaction", "data": {"entries": entries}}


class Operator:
    """Types commands; knows what the last one said."""

    def __init__(self, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._data = data
        self._capsys = capsys
        self._patch = monkeypatch
        self.out = self.err = ""

    def types(self, *words: str) -> int:
        """The exit code."""
        self._patch.setattr(sys, "argv", ["daybook", *words, "--data", str(self._data)])
        code = main()
        self.out, self.err = self._capsys.readouterr()
        return code

    def does(self, *words: str) -> str:
        """What it shows and says, where all is well."""
        assert self.types(*words) == Exit.DONE, self.err
        return self.out + self.err

    def asks(self, *words: str) -> Any:
        """The service's own answer."""
        self.does(*words, "--json")
        return json.loads(self.out)

    def waits_until(self, is_so: Callable[[], bool]) -> None:
        """Asks again until it is so."""
        deadline = time.monotonic() + 30
        while not is_so():
            assert time.monotonic() < deadline, self.out + self.err
            time.sleep(0.1)

    def is_at_head(self, projection: str = "books") -> bool:
        """Nothing of the projection is behind."""
        listed = self.asks("projections", "list")["data"]
        [found] = [each for each in listed if each["projection"] == projection]
        return bool(found["progress"]["lag_events"] == 0 < found["progress"]["events"])


@pytest.fixture
def operator(data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Operator:
    for name in [name for name in os.environ if name.startswith("DAYBOOK_")]:
        monkeypatch.delenv(name)
    made = Operator(data, capsys, monkeypatch)
    made.waits_until(made.is_at_head)
    return made


@contextmanager
def administrator(data: Path) -> Iterator[psycopg.Connection[Any]]:
    """Who may do what no process may."""
    url = json.loads((data / "stack.json").read_bytes())["postgres_url"]
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def test_how_things_stand(
    operator: Operator, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = operator.does("projections", "list")
    for shown in ("books", "periods", "running", "events/s", "last error"):
        assert shown in said
    listed = operator.asks("projections", "list")["data"]
    assert [(each["projection"], each["state"], each["parked"]) for each in listed] == [
        ("books", "running", 0),
        ("periods", "running", 0),
    ]
    said = operator.does("projections", "status", "books")
    assert "bank" in said
    assert "books is running" in said
    status = operator.asks("projections", "status", "books", "--ledger", "shop")
    [shop] = status["ledgers"]
    assert (shop["state"], shop["position"], shop["lag_events"], shop["events_per_second"]) == (
        "current",
        shop["head"],
        0,
        0,
    )
    assert "all is published" in operator.does("relay", "status")
    relay = operator.asks("relay", "status", "--limit", "1")
    assert (relay["state"], len(relay["ledgers"])) == ("active", 1)
    for words in (("projections", "status", "none"), ("relay", "status", "--ledger", "none")):
        assert operator.types(*words) == Exit.FAULT
        assert "_not_found" in operator.err
        assert operator.out == ""
    assert operator.types("projections", "status") == Exit.USAGE
    nobody = Operator(tmp_path, capsys, monkeypatch)
    assert nobody.types("projections", "list") == Exit.UNAVAILABLE
    assert "no local stack" in nobody.err


def test_pause_and_resume(operator: Operator) -> None:
    assert "by local-operator: ticket 7" in operator.does("projections", "pause", "books", "--reason", "ticket 7")
    assert operator.asks("projections", "pause", "books")["pause"]["reason"] == "ticket 7"  # the first one stands
    assert "paused" in operator.does("projections", "list")
    assert "books is running" in operator.does("projections", "resume", "books")
    [resumed, paused, *_] = operator.asks("projections", "trail", "--projection", "books")["data"]
    assert (resumed["action"], paused["action"], paused["actor"]) == ("resume", "pause", "local-operator")


def test_a_rebuild_is_followed_verified_taken_over_rolled_back_and_dropped(operator: Operator) -> None:
    assert operator.types("projections", "rebuild", "books") == Exit.USAGE  # nobody is there to say yes
    running = operator.asks("projections", "rebuild", "books", "--yes", "--throttle", "20", "--no-wait")
    assert (running["kind"], running["events_per_second_max"]) == ("rebuild", 20)
    assert operator.types("projections", "rebuild", "books", "--yes") == Exit.REFUSED
    assert "rebuild_running" in operator.err
    first = str(running["generation"])
    assert operator.types("projections", "verify", "books", "--generation", first) == Exit.REFUSED
    assert "generation_building" in operator.err
    operator.does("projections", "drop", "books", first, "--yes")
    newest = operator.asks("projections", "jobs", "books", "--limit", "1")["data"][0]
    assert newest["state"] == "cancelled"

    assert "done" in operator.does("projections", "rebuild", "books", "--yes", "--reason", "ticket 8")
    assert operator.types("projections", "swap", "books") == Exit.REFUSED
    assert "not_verified" in operator.err
    assert "equal" in operator.does("projections", "verify", "books")
    assert (
        "equal"
        in operator.does("projections", "swap", "books", "--reason", "equal")
        + operator.asks("projections", "trail", "--limit", "1")["data"][0]["reason"]
    )
    status = operator.asks("projections", "status", "books")
    built = status["projection"]["live_generation"]
    assert [each["state"] for each in status["generations"]] == ["former", "dropped", "live"]
    assert operator.types("projections", "drop", "books", str(built), "--yes") == Exit.REFUSED
    assert "generation_live" in operator.err
    assert "generation 1 of books is live" in operator.does("projections", "rollback", "books")
    assert operator.types("projections", "drop", "books", str(built)) == Exit.USAGE
    operator.does("projections", "drop", "books", str(built), "--yes")
    assert operator.types("projections", "rollback", "books") == Exit.REFUSED
    assert "nothing_to_roll_back" in operator.err
    assert "rebuild" in operator.does("projections", "jobs", "books")


def test_a_ledger_is_parked_with_a_poison_event_skipped_and_repaired(operator: Operator, data: Path) -> None:
    bank = ("projections", "standing", "books", "bank")
    assert "parked" in operator.does("projections", "park", "books", "bank", "--reason", "to look at it")
    [parked] = operator.asks(*bank)["standing"]
    poison = parked["position"]
    entries = posting(0)["data"]["entries"]
    lines = data.parent / "poison.ndjson"
    lines.write_text(json.dumps({"type": "post_transaction", "data": {"entries": entries}}) + "\n")
    operator.does("load", str(lines), "--ledger", "bank")
    with administrator(data) as admin:
        of = ["bank", poison]
        admin.execute("set session_replication_role = replica")
        [data_before] = admin.execute(
            "select data from daybook.events where ledger = %s and position = %s", of
        ).fetchone() or [""]
        admin.execute("update daybook.events set data = '{' where ledger = %s and position = %s", of)
        operator.waits_until(lambda: operator.asks("relay", "status")["progress"]["lag_events"] == 0)
        assert "is tried again" in operator.does("projections", "retry", "books", "bank")
        operator.waits_until(lambda: operator.asks(*bank)["standing"][0]["error_class"] == "DecodeError")
        assert "DecodeError" in operator.does("projections", "standing", "books")
        listed = operator.asks("projections", "list")["data"][0]
        assert (listed["parked"], listed["last_error"].partition(" ")[0]) == (1, "DecodeError")
        assert operator.types("projections", "skip", "books", "bank", str(poison), "--yes") == Exit.USAGE
        wrong = ("projections", "skip", "books", "bank", str(poison + 1), "--yes", "--reason", "wrong one")
        assert operator.types(*wrong) == Exit.REFUSED
        assert "ledger_not_parked" in operator.err
        skip = ("projections", "skip", "books", "bank", str(poison), "--reason", "ticket 9")
        assert operator.types(*skip) == Exit.USAGE
        assert f"goes on without {poison}" in operator.does(*skip, "--yes")
        operator.waits_until(operator.is_at_head)
        assert "nothing stands still" in operator.does("projections", "standing", "books")
        assert f"{poison} is left out" in operator.does(*bank)
        admin.execute("update daybook.events set data = %s where ledger = %s and position = %s", [data_before, *of])
    assert operator.types("projections", "retry", "books", "bank") == Exit.REFUSED
    assert operator.types("projections", "reconcile", "books") == Exit.DONE  # a skip is honoured, not a difference
    repaired = operator.asks("projections", "repair", "books", "bank", "--reason", "mended")
    assert repaired["has_passed"] is True
    assert "until" in operator.does(*bank)
    trail = operator.asks("projections", "trail", "--ledger", "bank", "--limit", "4")["data"]
    assert [each["action"] for each in trail] == ["repair", "skip", "retry", "park"]
    assert f"position {poison}" in operator.does("projections", "trail", "--ledger", "bank")


def test_a_difference_is_found_named_and_mended(operator: Operator, data: Path) -> None:
    with administrator(data) as admin:
        admin.execute("update books_1.entries set amount = amount + 1 where ledger = 'shop' and address = 'users:2'")
    assert operator.types("projections", "reconcile", "books") == Exit.VERIFICATION_FAILED
    assert "entries of shop" in operator.out
    assert '"address":"users:2"' in operator.out
    assert operator.types("projections", "reconcile", "books", "--ledger", "bank") == Exit.DONE
    found = operator.types("projections", "reconcile", "books", "--ledger", "shop", "--json")
    assert (found, json.loads(operator.out)["findings"]["ledgers_differ"]) == (Exit.VERIFICATION_FAILED, 1)
    assert operator.types("projections", "repair", "books", "shop", "--account", "no:body") == Exit.FAULT
    assert "account_not_found" in operator.err
    assert "done" in operator.does("projections", "repair", "books", "shop", "--account", "users:2", "--reason", "r")
    assert operator.types("projections", "reconcile", "books") == Exit.DONE
    assert "account users:2" in operator.does("projections", "trail", "--ledger", "shop")
