"""Which locks a command wants: those of the fences that others could make fail, and no others."""

import pytest

from command_service.application.locks import wanted_together
from command_service.domain.commands import Command
from tests.support.clerk import NOW, Clerk, run
from tests.support.commands import command, transfer, wallet
from tests.support.memory_log import MemoryLog


@pytest.fixture
def clerk() -> Clerk:
    """A ledger with a (at least 0), b (at most 100), both (both bounds), and free."""
    made = Clerk(MemoryLog())
    opened = command("open_ledger", ledger="bank", defaults=[{"pattern": "new:*", "limits": {"EUR/2": {"minimum": 0}}}])
    wallets = [wallet("a", minimum=0), wallet("b", maximum=100), wallet("both", minimum=0, maximum=100), wallet("free")]
    made.send(opened, *wallets, *(transfer("world", name, 50) for name in ("a", "b", "both")))
    return made


def names(clerk: Clerk, asked: Command) -> list[str]:
    """The locks of one command, once the states it names are loaded."""
    ticket = clerk.ticket(asked)
    run(clerk.loader.prefetch(clerk.log, clerk.cache, [ticket]))
    return list(wanted_together([ticket], clerk.cache).names)


def test_a_lock_is_wanted_for_what_a_limit_bounds_and_for_nothing_else(clerk: Clerk) -> None:
    assert names(clerk, transfer("a", "b", 1)) == ["draws:a:EUR/2", "fills:b:EUR/2"]
    assert names(clerk, transfer("b", "a", 1)) == []  # away from both limits
    assert names(clerk, transfer("both", "free", 1)) == ["draws:both:EUR/2"]
    assert names(clerk, transfer("free", "both", 1)) == ["fills:both:EUR/2"]
    assert names(clerk, transfer("free", "world", 1)) == []
    assert names(clerk, transfer("a", "b", 1, asset="USD/2")) == []  # no limit of another asset
    assert names(clerk, transfer("a", "free", 1, status="pending")) == ["draws:a:EUR/2"]
    assert names(clerk, wallet("c", minimum=0)) == []


def test_a_command_about_a_transaction_wants_the_locks_of_what_it_would_move(clerk: Clerk) -> None:
    due = {"status": "scheduled", "id": "due", "effective_at": NOW.replace(year=2027)}
    clerk.send(transfer("free", "a", 5, id="posted"), transfer("a", "b", 1, **due))
    assert names(clerk, command("reverse_transaction", transaction="posted")) == ["draws:a:EUR/2"]
    assert names(clerk, transfer("a", "b", 1, **{**due, "id": "later"})) == []  # nothing is decided before it comes due
    assert names(clerk, command("post_scheduled", transaction="due")) == ["draws:a:EUR/2", "fills:b:EUR/2"]
    assert names(clerk, command("reverse_transaction", transaction="unknown")) == []
