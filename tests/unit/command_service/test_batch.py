"""A batch decided in memory: what is fenced, what stands or falls together, what waits for the next batch."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pytest

from command_service.application.batch import DecidedBatch, Ticket, decide_batch
from command_service.application.decisions import DECISIONS
from command_service.domain.asking import Context
from command_service.domain.books import Books, Need
from command_service.domain.commands import COMMAND_TYPES, SYSTEM_COMMANDS, Command
from command_service.domain.state import Account
from shared_kernel.errors import Rejection
from shared_kernel.events import (
    AccountClosed,
    AccountFrozen,
    CommandRefused,
    Event,
    LedgerArchived,
    LedgerOpened,
    Limit,
    ScheduledRefused,
    TransactionScheduled,
    decode_metadata,
)
from tests.support.clerk import Clerk
from tests.support.memory_log import MemoryLog
from tests.unit.command_service.given import (
    BANK,
    NOW,
    Given,
    between,
    command,
    context,
    held,
    opened,
    posted,
    recorded,
    transfer,
)

A, B = opened("a", czk=Limit(minimum=0)), opened("b")
FUNDED = (BANK, A, B, posted("b", "a", 100))
SEEN = 9


def ticket(asked: Command, *, conflicts: int = 0, is_system: bool = False) -> Ticket:
    """The command on its way."""
    base = context(f"made-{id(asked)}", now=NOW + timedelta(hours=is_system))
    named = {name: getattr(base, name) for name in base.__struct_fields__}
    asker = Context(**{**named, "key": f"k{id(asked)}", "is_system": is_system, "asked": b"{}"})
    future: Any = None
    made = Ticket(DECISIONS[type(asked)], asked, asker, future=future, deadline=0)
    made.conflicts = conflicts
    return made


def decided(events: Iterable[Event], *asked: Command | Ticket, is_locked: bool = True) -> DecidedBatch:
    """The batch, on states of which nothing is missing."""
    tickets = [one if isinstance(one, Ticket) else ticket(one) for one in asked]
    given = Given(*events)
    for one in tickets:
        given.books(one.command, now=one.context.now)  # loads what it asks for
        for address in one.command.addresses():
            given.accounts.setdefault(address, Account(address=address))
    return decide_batch(given._books(tickets[0].command, is_certain=False), tickets, seen=SEEN, is_locked=is_locked)


def fences(batch: DecidedBatch, index: int = 0) -> dict[str, int]:
    """Tag and position of a verdict's fences, but for that on its key, which is always the first."""
    first, *others = batch.verdicts[index].fences
    assert (first.tag, first.after) == (batch.verdicts[index].ticket.key_tag, 0)
    return {fence.tag: fence.after for fence in others}


# --- fences of what is accepted


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (transfer("b", "a", 1, id="t"), {"transaction:t": 0, "ledger-terms": SEEN, "terms:b": SEEN, "terms:a": SEEN}),
        (
            transfer("a", "b", 1, id="t", status="pending"),
            {"transaction:t": 0, "ledger-terms": SEEN, "terms:a": SEEN, "terms:b": SEEN, "draws:a:CZK/2": SEEN},
        ),
        (
            command("post_hold", transaction="h0"),
            {"ledger-terms": SEEN, "transaction:h0": SEEN, "terms:a": SEEN, "terms:b": SEEN},
        ),
        (command("void_hold", transaction="h0"), {"ledger-terms": SEEN, "transaction:h0": SEEN}),
        (
            command("reverse_transaction", transaction="t0", id="r", entries=between("b", "a", 50)),
            {
                "transaction:r": 0,
                "ledger-terms": SEEN,
                "transaction:t0": SEEN,
                "terms:b": SEEN,
                "terms:a": SEEN,
                "draws:a:CZK/2": SEEN,
            },
        ),
        (command("freeze_account", address="b"), {"ledger-terms": SEEN, "terms:b": SEEN}),
        (
            command("set_limits", address="b", limits={}),
            {"ledger-terms": SEEN, "terms:b": SEEN, "account:b": SEEN},
        ),
        (
            command("patch_account_metadata", address="b", metadata={"k": "v"}),
            {"ledger-terms": SEEN, "terms:b": SEEN, "metadata:b": SEEN},
        ),
        (
            command("patch_ledger_metadata", metadata={"k": "v"}),
            {"ledger-terms": SEEN, "ledger-metadata": SEEN},
        ),
        (
            transfer("b", "a", 1, id="t", conditions=[{"account": "b", "asset": "JPY", "balance": "posted", "eq": 0}]),
            {
                "transaction:t": 0,
                "ledger-terms": SEEN,
                "terms:b": SEEN,
                "terms:a": SEEN,
                "account:b": SEEN,
            },
        ),
        (
            transfer("b", "a", 1, id="t", status="scheduled", effective_at="2026-12-01T00:00:00Z", reference="r"),
            {"transaction:t": 0, "reference:r": 0, "ledger-terms": SEEN},
        ),
    ],
)
def test_each_decision_is_fenced_on_what_could_make_it_wrong(asked: Command, expected: dict[str, int]) -> None:
    assert fences(decided((*FUNDED, held("a", "b", 10)), asked)) == expected


def test_known_balances_are_fenced_on_nothing_more() -> None:
    plain, telling = transfer("b", "a", 1, id="t"), transfer("b", "a", 1, id="t", balances="known")
    assert fences(decided(FUNDED, plain)) == fences(decided(FUNDED, telling))


# --- fences of other answers


@pytest.mark.parametrize(
    ("events", "asked", "fenced", "not_fenced"),
    [
        (FUNDED, transfer("a", "b", 101), {"account:a", "terms:a", "terms:b", "ledger-terms"}, {"account:b"}),
        ((*FUNDED, LedgerArchived(ledger="bank")), transfer("a", "b", 1), {"ledger-terms"}, {"account:a"}),
        ((*FUNDED, AccountFrozen(address="b", scope="all")), transfer("a", "b", 1), {"terms:b"}, {"account:b"}),
        (
            (*FUNDED, held("a", "b", 10)),
            command("post_hold", transaction="h0", entries=between("a", "b", 11)),
            {"transaction:h0", "terms:a", "ledger-terms"},
            {"account:a"},
        ),
        (FUNDED, command("close_account", address="a"), {"account:a"}, set()),
        (
            FUNDED,
            transfer("b", "a", 1, conditions=[{"account": "a", "last_position": 1}]),
            {"account:a"},
            {"account:b"},
        ),
    ],
)
def test_a_refusal_is_fenced_on_all_it_looked_at(
    events: Any, asked: Command, fenced: set[str], not_fenced: set[str]
) -> None:
    batch = decided(events, asked)
    found = fences(batch)
    assert isinstance(batch.verdicts[0].decided[-1], CommandRefused)
    assert fenced <= set(found)
    assert not not_fenced & set(found)
    assert set(found.values()) == {SEEN}


def test_a_rejection_is_fenced_too_for_it_may_follow_from_an_old_state() -> None:
    batch = decided(FUNDED, command("void_hold", transaction="nobody"))
    assert isinstance(batch.verdicts[0].error, Rejection)
    assert fences(batch) == {"ledger-terms": SEEN, "transaction:nobody": SEEN}
    assert batch.verdicts[0].recorded == ()


@pytest.mark.parametrize("asked", [transfer("a", "b", 101), command("void_hold", transaction="nobody")])
def test_after_one_conflict_an_answer_stands_as_of_the_state_it_was_given_on(asked: Command) -> None:
    batch = decided(FUNDED, ticket(asked, conflicts=1))
    assert fences(batch) == {}
    for event in batch.verdicts[0].decided:
        assert isinstance(event, CommandRefused)
        assert event.judged_at == SEEN


def test_a_refusal_of_a_scheduled_transaction_is_an_event_of_its_own_with_fences() -> None:
    waiting = TransactionScheduled(
        transaction="s", entries=recorded("a", "b", 101), effective_at="2026-11-24T10:00:00.000000Z"
    )
    batch = decided((*FUNDED, waiting), ticket(command("post_scheduled", transaction="s"), is_system=True))
    assert isinstance(batch.verdicts[0].decided[-1], ScheduledRefused)
    assert {"account:a", "transaction:s", "terms:a", "draws:a:CZK/2"} <= set(fences(batch))


# --- ids and references


def test_what_a_failed_fence_means_depends_on_what_was_claimed() -> None:
    (verdict,) = decided(FUNDED, transfer("a", "b", 1, id="t", reference="r")).verdicts
    for tag, code in (("transaction:t", "transaction_exists"), ("reference:r", "reference_taken")):
        taken = verdict.taken([tag])
        assert taken is not None
        assert taken.code == code
    assert verdict.taken(["transaction:t", "terms:a"]) is None  # what changed may lead to another answer
    (hold,) = decided((*FUNDED, held("a", "b", 10)), command("post_hold", transaction="h0")).verdicts
    assert hold.taken(["transaction:h0"]) is None


def test_an_id_claimed_twice_in_one_batch_waits_for_what_becomes_of_the_first() -> None:
    first, second = transfer("a", "b", 1, id="t"), transfer("b", "a", 1, id="t")
    batch = decided(FUNDED, first, second)
    assert [one.command for one in batch.deferred] == [second]


# --- groups


def groups(batch: DecidedBatch) -> list[int]:
    return [verdict.group for verdict in batch.verdicts]


def test_what_reads_what_an_earlier_command_wrote_stands_or_falls_with_it() -> None:
    batch = decided(
        FUNDED,
        transfer("a", "b", 1, id="h", status="pending"),
        transfer("b", "c", 1),
        command("post_hold", transaction="h"),
        command("patch_transaction_metadata", transaction="h", metadata={"k": "v"}),
        transfer("b", "d", 1),
        command("freeze_account", address="b"),
        transfer("a", "b", 1),
    )
    assert batch.deferred == []
    assert groups(batch) == [0, 1, 0, 0, 4, 5, 5]
    assert isinstance(batch.verdicts[-1].decided[-1], CommandRefused)  # b is frozen by then, so it hangs on that


def test_a_refusal_after_a_change_of_its_batch_hangs_on_it() -> None:
    batch = decided(FUNDED, command("freeze_account", address="b"), transfer("b", "a", 1))
    assert groups(batch) == [0, 0]


def test_closing_hangs_on_whatever_emptied_the_account() -> None:
    batch = decided(FUNDED, transfer("a", "b", 100), command("close_account", address="a"))
    assert isinstance(batch.verdicts[-1].decided[-1], AccountClosed)
    assert groups(batch) == [0, 0]


def test_known_balances_hang_on_the_earlier_commands_that_made_them() -> None:
    together = decided(FUNDED, transfer("b", "a", 1), transfer("b", "a", 1, balances="known"))
    apart = decided(FUNDED, transfer("b", "a", 1), transfer("b", "a", 1))
    assert (groups(together), groups(apart)) == ([0, 0], [0, 1])


# --- what waits


def test_without_the_lock_what_needs_it_waits_untouched() -> None:
    asked = [transfer("b", "a", 1), command("close_account", address="b"), transfer("b", "a", 1)]
    batch = decided(FUNDED, *asked, is_locked=False)
    assert [one.command for one in batch.deferred] == [asked[1]]
    assert batch.deferred[0].needs_lock
    assert [verdict.ticket.command for verdict in batch.verdicts] == [asked[0], asked[2]]


def test_a_rejection_that_followed_from_the_batch_waits_until_that_is_in_the_log() -> None:
    void = command("void_hold", transaction="h0")
    again = command("void_hold", transaction="h0")
    batch = decided((*FUNDED, held("a", "b", 10)), void, again)
    assert [one.command for one in batch.deferred] == [again]


def test_a_condition_on_the_head_waits_for_everything_before_it() -> None:
    asked = transfer("b", "a", 1, conditions=[{"head": 4}])
    assert decided(FUNDED, asked).deferred == []
    assert [one.command for one in decided(FUNDED, transfer("b", "a", 1), asked).deferred] == [asked]


def test_a_condition_on_a_last_position_waits_only_for_what_touched_the_account() -> None:
    asked = transfer("b", "a", 1, conditions=[{"account": "c", "last_position": 0}])
    assert decided(FUNDED, transfer("b", "a", 1), asked).deferred == []
    assert len(decided(FUNDED, transfer("b", "c", 1), asked).deferred) == 1


def test_whatever_waits_is_decided_in_the_end() -> None:
    clerk = Clerk(MemoryLog())
    clerk.send(command("open_ledger", ledger="bank"))
    asked = []
    for number in range(6):
        asked += [
            transfer("a", "b", 1, id=f"t{number % 2}", conditions=[{"head": 2 * number + 1}]),
            transfer("a", "b", 1, reference="r"),
            command("void_hold", transaction="t0"),
            command("set_limits", address="a", limits={}, conditions=[{"account": "a", "last_position": number}]),
        ]
    assert len(clerk.send(*asked)) == len(asked)


def test_what_is_missing_is_named_and_its_commands_wait() -> None:
    books = Books(terms=Given(BANK).terms, accounts={})
    asked = [transfer("a", "b", 1), command("void_hold", transaction="h"), command("close_account", address="c")]
    batch = decide_batch(books, [ticket(one) for one in asked], seen=SEEN)
    assert batch.missing == {Need("account", "a"), Need("transaction", "h"), Need("account", "c")}
    assert [one.command for one in batch.deferred] == asked


# --- who asks


def test_the_clock_has_keys_of_its_own() -> None:
    asked = command("expire_hold", transaction="h0")
    assert type(asked) in SYSTEM_COMMANDS
    hold = held("a", "b", 10, expires_at="2026-11-24T10:00:00.000000Z")
    (verdict,) = decided((*FUNDED, hold), ticket(asked, is_system=True)).verdicts
    metadata = decode_metadata(verdict.recorded[0].metadata)
    assert metadata.system
    assert verdict.ticket.key_tag == f"system-key:teller:{metadata.key}"
    assert verdict.ticket.key_tag in verdict.recorded[0].tags


def test_every_command_has_its_decision() -> None:
    assert set(DECISIONS) == set(COMMAND_TYPES.values())
    assert LedgerOpened in {type(event) for event in Given().when(command("open_ledger", ledger="bank"))}
