"""Shows the figures of relay and projector to Prometheus, and to health checks: no more than the loop has counted."""

from collections.abc import Callable, Iterator, Mapping

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from projections.application.figures import Figures, RelayFigures

PROJECTOR = {
    "applied": "Events applied to the read model",
    "batches": "Batches written",
    "batch_seconds": "Seconds spent on batches, folding and writing",
    "from_log": "Events read from the log: healing, gaps, builds and retries",
    "gaps": "Ledgers whose messages had a gap, filled from the log",
    "healed": "Ledgers that no message brought to the head, or a spoiled one would have parked, filled from the log",
    "renewed": "Times that the consumer was begun anew, because nothing came of what had to be filled from the log",
    "duplicates": "Messages dropped because their position was there already",
    "foreign": "Messages dropped because they are of another incarnation of the log",
    "malformed": "Messages dropped because they are no events",
    "lost_races": "Batches that another worker wrote first",
    "faults": "Times that a ledger came to stand still, tries included",
    "retries": "Batches tried again after a fault that passes, such as a deadlock",
    "skipped": "Events left out because an operator said so",
    "dead_letters": "Dead letters stored by Kafka",
    "head": "Events in the log, all ledgers",
    "position": "Events that the live generation has, all ledgers; the same in every process, as what follows",
    "lag_events": "Events behind the log, all ledgers; also while it is paused or stopped",
    "lag_events_max": "Events behind the log, the ledger most behind",
    "lag_seconds": "Age of the oldest event that is not applied",
    "events_per_second": "Events that the live generation came further by, a second, between the last two looks",
    "waiting": "Ledgers that stand still and go on by themselves",
    "parked": "Ledgers that stand still until an operator retries or skips an event",
    "generation": "The generation that this process feeds",
    "is_building": "1 while that generation is built from the log",
    "rebuild_events_done": "Events that the running rebuild has applied; the same in every process",
    "rebuild_events_total": "Events that it has to apply in all",
    "rebuild_events_per_second": "Its rate",
    "is_different": "1 while the last reconciliation found that the read model is not the fold of the log",
    "is_paused": "1 while an operator has paused the projection",
    "is_stopped": "1 while the projection is stopped until an operator acts: another incarnation, too many parked, unusable",
}
RELAY = {
    "published": "Events stored by Kafka",
    "batches": "Batches published",
    "batch_seconds": "Seconds spent on publishing batches",
    "failures": "Failed rounds, each begun again from what is remembered",
    "lost_leases": "Times that another relay took over",
    "head": "Events in the log, all ledgers; the same in every relay, as what follows",
    "position": "Events published, all ledgers",
    "lag_events": "Events not yet published, all ledgers, at the last look",
    "lag_events_max": "Events not yet published, the ledger most behind",
    "lag_seconds": "Age of the oldest event that is not published",
    "events_per_second": "Events published a second, between the last two looks",
    "epoch": "The epoch of the lease",
    "is_active": "1 while this relay holds the lease",
}
TROUBLE = "1 while it waits something out; `code` says what. No sample: all is well"
_REACHED = ("head", "position", "lag_events", "lag_events_max", "lag_seconds", "events_per_second")
_GAUGES = {
    "head",
    "position",
    "events_per_second",
    "lag_events",
    "lag_events_max",
    "lag_seconds",
    "waiting",
    "parked",
    "generation",
    "is_building",
    "is_paused",
    "rebuild_events_done",
    "rebuild_events_total",
    "rebuild_events_per_second",
    "is_different",
    "is_stopped",
    "epoch",
    "is_active",
}


class FiguresCollector(Collector):
    """`daybook_<part>_<figure>`, of one thing or, with its name as label, of each projection."""

    def __init__(
        self,
        figures: Figures | RelayFigures | Mapping[str, Figures],
        *,
        part: str,
        docs: dict[str, str],
    ) -> None:
        self._figures = figures
        self._part = part
        self._docs = docs

    def collect(self) -> Iterator[Metric]:
        """One sample each, as of now."""
        is_labelled = isinstance(self._figures, Mapping)
        samples = self._figures if isinstance(self._figures, Mapping) else {"": self._figures}
        found = {name: _values(figures) for name, figures in samples.items()}
        for name, doc in self._docs.items():
            family = GaugeMetricFamily if name in _GAUGES else CounterMetricFamily
            metric = family(f"daybook_{self._part}_{name}", doc, labels=["projection"] if is_labelled else [])
            for projection, values in found.items():
                metric.add_metric([projection] if is_labelled else [], float(values[name]))
            yield metric
        trouble = GaugeMetricFamily(
            f"daybook_{self._part}_trouble", TROUBLE, labels=[*(["projection"] if is_labelled else []), "code"]
        )
        for projection, figures in samples.items():
            if figures.trouble is not None:
                trouble.add_metric([*([projection] if is_labelled else []), figures.trouble], 1.0)
        yield trouble


def _values(figures: Figures | RelayFigures) -> dict[str, float]:
    """By name. How far it is: as of the last look at all readers, once there was one."""
    values = dict.fromkeys(_REACHED, 0.0) | msgspec.structs.asdict(figures)
    if figures.reached is not None:
        values |= {name: getattr(figures.reached, name) for name in _REACHED}
    return values


def readiness(figures: Figures | RelayFigures) -> Callable[[], str | None]:
    """A health check: what the loop is waiting out, if anything."""

    def check() -> str | None:
        return None if figures.is_ready else figures.trouble or "starting"

    return check
