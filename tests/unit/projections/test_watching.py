"""What metrics say of how far readers are, whoever feeds them."""

import threading
from collections.abc import Sequence

from prometheus_client import CollectorRegistry

from projections.application.figures import Figures, Reached
from projections.application.watching import Watch
from projections.presentation.figures import PROJECTOR, FiguresCollector


class Looks:
    """Readers that move as they are told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.found: dict[str, Reached] = {}

    def at(self, second: float, *, position: int, generation: int = 1, head: int = 1_000) -> None:
        self.now = second
        self.found = {
            "books": Reached(
                generation=generation, head=head, position=position, lag_events_max=head - position, lag_seconds=2.5
            )
        }

    def reached(self, names: Sequence[str]) -> dict[str, Reached]:
        return self.found


def test_a_lag_is_shown_while_nothing_is_fed_and_a_rate_between_two_looks() -> None:
    figures = {"books": Figures(is_paused=True, lag_events=0, trouble="too_many_parked"), "none": Figures()}
    looks = Looks()
    watch = Watch(figures, looks=looks, every_ms=1, stop=threading.Event(), monotonic=lambda: looks.now)
    registry = CollectorRegistry()
    registry.register(FiguresCollector(figures, part="projector", docs=PROJECTOR))

    def shown(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"daybook_projector_{name}", {"projection": "books"} | labels)

    looks.at(10.0, position=400)
    watch.look()
    assert (shown("head"), shown("position"), shown("lag_events"), shown("lag_seconds")) == (1000, 400, 600, 2.5)
    assert shown("events_per_second") == 0
    looks.at(12.0, position=500)
    watch.look()
    assert shown("events_per_second") == 50
    looks.at(14.0, position=900, generation=2)
    watch.look()
    assert shown("events_per_second") == 0  # another generation's position is no movement
    assert shown("trouble", code="too_many_parked") == 1
    assert registry.get_sample_value("daybook_projector_head", {"projection": "none"}) == 0
