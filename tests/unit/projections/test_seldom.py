"""What is said now and then, and what is not held back by it."""

from projections.application.seldom import SAY_S, Seldom


def test_one_of_a_kind_is_said_at_once_and_the_next_when_it_is_time() -> None:
    now = 0.0
    seldom = Seldom(lambda: now)
    assert seldom.is_due("a")
    assert seldom.is_due("b")
    now = SAY_S - 0.1
    assert not seldom.is_due("a")
    now = SAY_S
    assert [seldom.is_due("a"), seldom.is_due("a")] == [True, False]
