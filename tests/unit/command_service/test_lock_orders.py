"""The lock-order recorder itself: it must report what it exists for, or a clean run of it says nothing."""

from typing import Any

from tests.support.lock_orders import LockOrders


def lock(status: str, name: str, ledger: str = "bank", correlation_id: str | None = None) -> dict[str, Any]:
    """A line as a command process writes it."""
    line = {"event": "account_lock", "status": status, "ledger": ledger, "lock": name}
    return line | ({} if correlation_id is None else {"correlation_id": correlation_id})


def heads(event: str, *ledgers: str) -> dict[str, Any]:
    return {"event": event, "ledgers": list(ledgers), "correlation_id": "batch"}


def test_a_wrong_order_is_reported_though_it_came_to_no_deadlock() -> None:
    orders = LockOrders()
    for process, names in (("one", ("a", "b")), ("two", ("b", "a"))):
        for name in names:
            orders.hear(process, lock("taken", name))
        for name in names:
            orders.hear(process, lock("given_back", name))
    assert orders.cycles() == [["redis bank a", "redis bank b", "redis bank a"]]


def test_a_circle_of_three_that_no_two_of_them_close_is_reported() -> None:
    orders = LockOrders()
    for holder, first, second in (("x", "1", "2"), ("y", "2", "3"), ("z", "3", "1")):
        orders.take(holder, first)
        orders.take(holder, second)
    assert orders.cycles() == [["1", "2", "3", "1"]]


def test_heads_of_ledgers_in_opposite_orders_are_reported() -> None:
    orders = LockOrders()
    for process, ledgers in (("one", ("a", "b")), ("two", ("b", "a"))):
        orders.hear(process, heads("heads_locked", *ledgers))
        orders.hear(process, heads("heads_released", *ledgers))
    assert orders.cycles() == [["head a", "head b", "head a"]]


def test_a_lock_in_redis_taken_under_a_head_row_is_reported() -> None:
    orders = LockOrders()
    orders.hear("one", lock("taken", "a"))
    orders.hear("one", {"event": "batch_appended", "ledger": "bank"})  # the right order: the row last
    orders.hear("one", lock("given_back", "a"))
    assert orders.cycles() == []
    orders.hear("two", heads("heads_locked", "bank"))
    orders.hear("two", lock("taken", "a", correlation_id="batch"))
    assert orders.cycles() == [["head bank", "redis bank a", "head bank"]]


def test_the_same_order_by_many_is_no_circle() -> None:
    orders = LockOrders()
    for process in ("one", "two"):
        for name in ("a", "b", "c"):
            orders.hear(process, lock("taken", name))
        orders.hear(process, {"event": "batch_appended", "ledger": "bank"})
        for name in ("c", "a", "b"):
            orders.hear(process, lock("given_back", name))
        orders.hear(process, lock("taken", "a"))  # held on its own: nothing comes before it
    assert orders.cycles() == []
    assert orders.edges["redis bank a"].keys() == {"redis bank b", "redis bank c", "head bank"}


def test_positions_of_two_projectors_in_opposite_orders_are_reported() -> None:
    orders = LockOrders()
    for process, ledgers in (("one", ["a", "b"]), ("two", ["b", "a"])):
        for event in ("positions_locked", "positions_released"):
            orders.hear(process, {"event": event, "projection": "books", "generation": 1, "ledgers": ledgers})
    assert orders.cycles() == [["position books/1 a", "position books/1 b", "position books/1 a"]]
