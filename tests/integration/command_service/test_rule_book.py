"""The whole rule book, command by command, beside a second implementation of it (tests/support/oracle.py).

Hypothesis sends random commands to a real command process on real Postgres and asks the oracle what must come of each: status,
code and fields; after every step the log is read past the service and replayed. `DAYBOOK_SOAK_SECONDS` makes it go on for that
long with new examples (`make soak`); without it the budget is bounded.
"""

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.integration.command_service.conftest import KEY, token
from tests.services import Database, Servers
from tests.support.command_process import CommandProcess, command_processes
from tests.support.oracle_http import Command, Element, Oracle, Told, contains
from tests.support.oracle_log import LogOracle
from tests.support.recipes import DEFAULTS, Recipe, command, recipes

FEATURES: frozenset[str] = frozenset()
EXAMPLES = 60  # chosen: about 40 s
STEPS = 40
SOAK_SECONDS = float(os.environ.get("DAYBOOK_SOAK_SECONDS", "0"))
SELECT = "select position, type, data, metadata, recorded_at from daybook.events where ledger = %s and position > %s order by 1"
ANY = recipes(FEATURES)
NEW_IN = ("post_transaction", "reverse_transaction")


class Sent:
    """A request that was answered, to be sent again."""

    def __init__(self, commands: list[Command], keys: list[str], answers: list[tuple[int, Any]]) -> None:
        self.commands, self.keys, self.answers = commands, keys, answers


class RuleBook(RuleBasedStateMachine):
    """One ledger, a fresh one for each example."""

    process: ClassVar[CommandProcess]
    log: ClassVar["psycopg.Connection[Any]"]

    def __init__(self) -> None:
        super().__init__()
        self.oracle = Oracle()
        self.ledger = f"m-{uuid4().hex[:16]}"
        self.now = datetime.now(UTC)
        self.replayed = LogOracle()
        self.sent: list[Sent] = []
        self.count = 0

    @initialize(explicit=st.booleans(), records=st.sampled_from([True, True, True, False]))
    def open(self, explicit: bool, records: bool) -> None:
        """Every example begins with a ledger, and some accounts where they must be opened."""
        terms: dict[str, Any] = {"ledger": self.ledger, "defaults": DEFAULTS, "records_refusals": records}
        self.send(Command(self.ledger, "open_ledger", terms | ({"accounts": "explicit"} if explicit else {})))
        if explicit:
            for address in ("a", "users:1:wallet", "pool:1"):
                self.send(Command(self.ledger, "open_account", {"address": address} | _terms(address)))

    @rule(recipe=ANY)
    def one_command(self, recipe: Recipe) -> None:
        """Any command."""
        self.send(self.made(recipe))

    @rule(elements=st.lists(ANY, min_size=1, max_size=1), twice=st.just(False))
    def independent_batch(self, elements: list[Recipe], twice: bool) -> None:
        """One of a batch. Not several yet: where one falls with a command ahead of it (an id that is taken), those behind it are
        decided first, and the oracle has no word for that.
        """
        commands = [self.made(recipe) for recipe in elements]
        keys = [self.new_key() for _ in commands]
        if twice:
            keys[-1] = keys[0]
        self.send_batch(commands, keys)

    @precondition(lambda self: self.sent)
    @rule(which=st.integers(0, 30))
    def again(self, which: int) -> None:
        """The same request with the same key gets the same answer, and does nothing."""
        sent = self.sent[which % len(self.sent)]
        for one, key, answered in zip(sent.commands, sent.keys, sent.answers, strict=True):
            response = self.ask(one, key)
            told = self.compare(self.oracle.send(one, key, self.now), response)
            assert told.is_replay
            assert response.headers["idempotent-replay"] == "true"
            assert (response.status_code, _lasting(response.json())) == answered

    @precondition(lambda self: self.sent)
    @rule(which=st.integers(0, 30), recipe=ANY)
    def another_command_with_a_used_key(self, which: int, recipe: Recipe) -> None:
        """Is told so."""
        sent, other = self.sent[which % len(self.sent)], self.made(recipe)
        expected = self.oracle.send(other, sent.keys[0], self.now)
        self.compare(expected, self.ask(other, sent.keys[0]))

    @precondition(lambda self: self.sent)
    @rule(which=st.integers(0, 30))
    def what_became_of_it(self, which: int) -> None:
        """A command's key finds its recorded answer."""
        sent = self.sent[which % len(self.sent)]
        response = self.process.http.get(f"/v1/ledgers/{self.ledger}/commands/{sent.keys[0]}")
        assert (response.status_code, _lasting(response.json())) == sent.answers[0]

    def made(self, recipe: Recipe) -> Command:
        """The command of a recipe on the books as they are."""
        return command(recipe, self.oracle.books[self.ledger], self.now)

    def new_key(self) -> str:
        """Always the same in the same place of an example."""
        self.count += 1
        return f"k{self.count}"

    def ask(self, one: Command, key: str, **parameters: str) -> httpx.Response:
        """One request."""
        method, path = one.path
        note(f"{method} {path} {key} {one.sent} {parameters or ''}")
        response = self.process.http.request(
            method, path, content=json.dumps(one.sent), headers={"idempotency-key": key}, params=parameters
        )
        note(f"    {response.status_code} {response.text}")
        return response

    def send(self, one: Command) -> None:
        """A command under a key of its own, compared."""
        key = self.new_key()
        response = self.ask(one, key)
        new_id = self.new_id(one, response.json())
        told = self.compare(self.oracle.send(one, key, self.now, new_id=new_id), response)
        if told.is_kept:
            self.sent.append(Sent([one], [key], [(response.status_code, _lasting(response.json()))]))
        self.check_log()

    def send_batch(self, commands: list[Command], keys: list[str]) -> None:
        """An independent batch, compared element by element."""
        elements = [{"type": one.kind, "key": key, "data": one.body} for one, key in zip(commands, keys, strict=True)]
        note(f"POST batches {elements}")
        response = self.process.http.post(
            f"/v1/ledgers/{self.ledger}/batches", content=json.dumps({"commands": elements})
        )
        note(f"    {response.status_code} {response.text}")
        assert response.status_code == 200, response.text
        results = response.json()["results"]
        asked = [
            Element(one, key, self.new_id(one, result["body"]))
            for one, key, result in zip(commands, keys, results, strict=True)
        ]
        told = self.oracle.send_batch(asked, self.now)
        for expected, result in zip(told, results, strict=True):
            assert (expected.status, expected.is_replay) == (result["status"], result.get("replay", False)), expected
            assert contains(expected.body, result["body"]), expected
        self.check_log()

    def new_id(self, one: Command, body: Any) -> str:
        """What the service called a new transaction; it must be new."""
        if one.kind not in NEW_IN or "id" in one.body or "transaction" not in body:
            return ""
        UUID(body["transaction"]["id"])
        return str(body["transaction"]["id"])

    def compare(self, told: Told, response: httpx.Response) -> Told:
        """The answer is the one expected."""
        note(f"    expected {told}")
        body = response.json()
        assert response.status_code == told.status, f"{told} but {response.text}"
        assert contains(told.body, body), f"{told} but {response.text}"
        assert (response.headers.get("idempotent-replay") == "true") == told.is_replay
        if told.is_kept:
            assert response.headers["daybook-position"] == str(body["position"])
        return told

    def check_log(self) -> None:
        """The log's new events are allowed by the rules, and its fold is what the oracle's books are."""
        rows = self.log.execute(SELECT, [self.ledger, len(self.replayed.types)]).fetchall()
        self.replayed.replay(rows)
        assert self.replayed.findings == []
        books = self.oracle.books[self.ledger]
        assert len(self.replayed.types) == books.head
        for address, account in books.accounts.items():
            for asset, sums in account.totals.items():
                for (what, direction), amount in sums.items():
                    assert self.replayed.totals[address, asset, what, direction] == amount


def _terms(address: str) -> dict[str, Any]:
    """What the first use would have given."""
    fitting = [each for each in DEFAULTS if each["pattern"].split(":")[0] == address.split(":", maxsplit=1)[0]]
    return {name: value for each in fitting for name, value in each.items() if name != "pattern"}


def _lasting(body: Any) -> Any:
    """An answer without what belongs to one request only."""
    return {name: value for name, value in body.items() if name != "trace_id"}


@pytest.fixture(scope="module")
def machine(database: Database, stack: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[type[RuleBook]]:
    """The machine with a process to ask and a way to read its log."""
    with (
        command_processes(
            1,
            database=database,
            servers=stack,
            folder=tmp_path_factory.mktemp("rules"),
            key=KEY,
            authorization=f"Bearer {token('admin')}",
        ) as (process,),
        psycopg.connect(database.admin_url, autocommit=True) as log,
    ):
        RuleBook.process, RuleBook.log = process, log
        yield RuleBook


@pytest.mark.timeout(SOAK_SECONDS + 300)
def test_the_service_and_a_second_implementation_agree_on_every_command(machine: type[RuleBook]) -> None:
    until = time.monotonic() + SOAK_SECONDS
    bounded = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        **({"derandomize": False, "database": None} if SOAK_SECONDS else {}),
    )
    run_state_machine_as_test(machine, settings=bounded)
    while time.monotonic() < until:
        run_state_machine_as_test(machine, settings=bounded)
