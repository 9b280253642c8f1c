"""Loads: what a command names comes in few looks, in full only where a decision needs it, and nothing grows without bound."""

from typing import Any

import pytest

from command_service.application import cache as cache_module
from command_service.application import loading as loading_module
from command_service.application.cache import LedgerCache
from command_service.application.loading import Loader, needs_of, snapshot
from command_service.domain.books import Need
from command_service.domain.state import FOLD_VERSION
from shared_kernel.errors import Corruption
from shared_kernel.event_log.types import Tail
from shared_kernel.events import HoldPosted
from tests.support.clerk import Clerk, run
from tests.support.memory_log import MemoryLog
from tests.unit.command_service.given import command, transfer


@pytest.fixture
def log() -> MemoryLog:
    """A ledger with a limited account a and an unlimited one b, 100 on each side, and a hold of 10."""
    log = MemoryLog()
    clerk = Clerk(log)
    clerk.send(
        command("open_ledger", ledger="bank"),
        command("open_account", address="a", limits={"CZK/2": {"minimum": 0}}),
        transfer("b", "a", 100, id="t0"),
        transfer("a", "b", 10, id="h0", status="pending"),
    )
    return log


def filled(log: MemoryLog, *wanted: str | Need, tail: Tail | None = None) -> tuple[LedgerCache, int]:
    """A cold cache after one request, and the looks it took."""
    cache, counts = LedgerCache(), Counts()
    run(Loader("bank", tail=tail or Tail(), metrics=counts).fill(log, cache, wanted))
    return cache, counts.loads


class Counts:
    loads = 0

    def loaded(self) -> None:
        self.loads += 1


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (transfer("a", "b", 1), {"a", "b"}),
        (
            transfer("a", "b", 1, conditions=[{"account": "c", "last_position": 1}, {"head": 1}]),
            {"a", "b", "c", Need("in_full", "c")},
        ),
        (command("close_account", address="a"), {"a", Need("in_full", "a")}),
        (command("set_limits", address="a", limits={}), {"a", Need("in_full", "a")}),
        (command("freeze_account", address="a"), {"a"}),
        (command("patch_account_metadata", address="a", metadata={"k": "v"}), {"a", Need("metadata", "a")}),
        (command("post_hold", transaction="h0"), {Need("original", "h0")}),
        (command("reverse_transaction", transaction="h0"), {Need("original", "h0")}),
        (command("void_hold", transaction="h0"), {Need("transaction", "h0")}),
        (command("archive_ledger"), set()),
    ],
)
def test_a_command_names_what_its_decision_will_ask_for(asked: Any, expected: set[str | Need]) -> None:
    assert needs_of(asked) == expected


def test_an_account_without_limits_is_known_by_its_terms_alone(log: MemoryLog) -> None:
    cache, looks = filled(log, "b")
    assert cache.accounts["b"].totals is None
    assert looks == 1
    assert "account:b" not in {tag for tags in log.loads for tag in tags}


def test_a_limited_account_costs_two_looks(log: MemoryLog) -> None:
    cache, looks = filled(log, "a", "b")
    assert cache.accounts["a"].available("CZK/2") == 90
    assert looks == 2


def test_in_full_means_totals_and_last_position_whatever_the_limits(log: MemoryLog) -> None:
    cache, _ = filled(log, Need("in_full", "b"), Need("in_full", "nobody"))
    assert (cache.accounts["b"].pending("CZK/2"), cache.accounts["b"].last_position) == (-90, 5)
    nobody = cache.accounts["nobody"]
    assert (nobody.status, nobody.totals, nobody.last_position) == ("absent", {}, 0)


def test_an_original_brings_the_terms_of_its_accounts(log: MemoryLog) -> None:
    cache, looks = filled(log, Need("original", "h0"))
    assert cache.transactions["h0"].status == "pending"
    assert {"a", "b"} <= set(cache.accounts)
    assert looks == 3


def test_a_transaction_alone_brings_no_account(log: MemoryLog) -> None:
    cache, looks = filled(log, Need("transaction", "h0"), Need("transaction", "nobody"))
    assert (cache.accounts, looks) == ({}, 1)
    assert cache.transactions["nobody"].status == "absent"


def test_metadata_keys_are_folded_from_the_opening_and_its_patches_only(log: MemoryLog) -> None:
    clerk = Clerk(log)
    clerk.send(command("patch_account_metadata", address="a", metadata={"x": "1", "y": "2"}))
    clerk.send(command("patch_account_metadata", address="a", metadata={"y": None}))
    log.loads.clear()
    cache, _ = filled(log, Need("metadata", "a"), Need("metadata", "b"))
    assert cache.accounts["a"].metadata_keys == {"x"}
    assert cache.accounts["b"].metadata_keys == set()
    assert "account:b" not in {tag for tags in log.loads for tag in tags}


def test_a_warm_worker_ends_a_hold_without_a_look(log: MemoryLog) -> None:
    clerk = Clerk(log)
    clerk.send(transfer("a", "b", 5, id="h1", status="pending"))
    before = clerk.loads
    ((event,),) = clerk.send(command("post_hold", transaction="h1"))  # type: ignore[misc]
    assert isinstance(event, HoldPosted)
    assert clerk.loads == before


def test_the_time_of_a_transaction_that_the_worker_posted_itself_is_looked_up_when_it_is_needed(log: MemoryLog) -> None:
    clerk = Clerk(log)
    clerk.send(transfer("a", "b", 5, id="h1", status="pending"), command("post_hold", transaction="h1"))
    ((event,),) = clerk.send(command("reverse_transaction", transaction="h1", effective_at="original"))  # type: ignore[misc]
    posted_at = next(each for each in log.events["bank"] if each.type == "HoldPosted.v1").recorded_at
    assert event.effective_at == posted_at.isoformat().replace("+00:00", ".000000Z")  # type: ignore[union-attr]


def test_a_reversal_in_the_batch_of_its_original_counts_from_the_time_they_share(log: MemoryLog) -> None:
    clerk = Clerk(log)
    posting = transfer("b", "a", 5, id="t1")
    _, (event,) = clerk.send(posting, command("reverse_transaction", transaction="t1", effective_at="original"))  # type: ignore[misc]
    assert event.effective_at is None  # type: ignore[union-attr]
    assert len({each.recorded_at for each in log.events["bank"][-2:]}) == 1


def test_a_ledger_that_does_not_exist_has_nothing_in_it() -> None:
    cache, _ = filled(MemoryLog(), "a", Need("in_full", "b"), Need("transaction", "t"))
    assert (cache.seen, cache.terms) == (0, None)


def test_a_worker_that_fell_far_behind_loads_all_of_it_again(log: MemoryLog) -> None:
    tail = Tail(events_max=3)
    cache, counts = LedgerCache(), Counts()
    loader = Loader("bank", tail=tail, metrics=counts)
    run(loader.fill(log, cache, ["a", Need("in_full", "b"), Need("original", "h0")]))
    clerk = Clerk(log)
    for _ in range(5):
        clerk.send(transfer("b", "a", 1))
    clerk.send(command("void_hold", transaction="h0"))
    run(loader.fill(log, cache, ["a", Need("in_full", "b"), Need("original", "h0")], is_refreshed=True))
    assert cache.seen == len(log.events["bank"])
    assert cache.accounts["a"].available("CZK/2") == 105
    assert cache.accounts["b"].pending("CZK/2") == -105
    assert cache.transactions["h0"].status == "voided"


def test_a_long_load_leaves_a_snapshot_so_that_the_next_is_short(
    log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "SNAPSHOT_EVERY", 20)
    clerk = Clerk(log)
    for _ in range(20):
        clerk.send(transfer("b", "a", 1))
    cold = Clerk(log)
    cold.send(transfer("b", "c", 1, conditions=[{"account": "b", "asset": "CZK/2", "balance": "posted", "lte": 0}]))
    assert [account.address for account in cold.cache.take_unsaved()] == ["b"]
    assert cold.cache.take_unsaved() == []


def test_a_long_history_is_read_in_pages_that_leave_snapshots(log: MemoryLog, monkeypatch: pytest.MonkeyPatch) -> None:
    clerk = Clerk(log)
    for _ in range(17):
        clerk.send(transfer("b", "a", 1))
    whole, _ = filled(log, Need("in_full", "b"))
    monkeypatch.setattr(loading_module, "PAGE_EVENTS", 5)
    assert log.pages == 1
    paged, _ = filled(log, Need("in_full", "b"))
    assert paged.accounts == whole.accounts
    assert log.pages == 1 + 5  # 20 events about b, and the page that found none
    (left,) = [tags for tags in log.loads if "account:b" in tags][-1:]
    assert log.snapshots["bank", "b", FOLD_VERSION].position == len(log.events["bank"])
    assert left == ["account:b"]
    filled(log, Need("in_full", "b"))
    assert log.pages == 7


def test_snapshots_of_another_fold_are_not_used(log: MemoryLog) -> None:
    cache, _ = filled(log, Need("in_full", "b"))
    log.snapshots["bank", "b", FOLD_VERSION - 1] = snapshot(cache.accounts["b"], 1)
    again, _ = filled(log, Need("in_full", "b"))
    assert again.accounts["b"] == cache.accounts["b"]


def test_the_longest_known_transactions_are_forgotten_first(log: MemoryLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "TRANSACTIONS_MAX", 10)
    clerk = Clerk(log)
    for number in range(11):
        clerk.send(transfer("b", "a", 1, id=f"p{number}", status="pending"))
    clerk.cache.shrink(())
    assert len(clerk.cache.transactions) == 9
    assert "p10" in clerk.cache.transactions
    assert not isinstance(clerk.ask(command("void_hold", transaction="p0")), Exception)


def test_an_incomplete_tail_is_never_believed(log: MemoryLog) -> None:
    cache, _ = filled(log, "a")
    with pytest.raises(Corruption, match="tail_incomplete"):
        cache.follow(log.events["bank"][:1], upto=7)
