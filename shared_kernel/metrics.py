"""Prometheus metrics: what all processes share. Each process defines its own figures on a registry of its own.

Names are `daybook_<part>_<what>_<unit>`, counters end in `_total`. Labels have few values: never an account, a ledger,
a subject or a path with ids in it.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

__all__ = ["CONTENT_TYPE", "LATENCY_BUCKETS", "SIZE_BUCKETS", "Counts", "Times", "new_registry", "render"]

# Seconds. Chosen round what is promised: a durable write in about 10 ms, a wait of a few seconds at most.
LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)  # things in a batch


def new_registry() -> CollectorRegistry:
    """A registry with the process's own figures: memory, CPU, file descriptors, garbage collection."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def render(registry: CollectorRegistry) -> bytes:
    """The text of /metrics, of type `CONTENT_TYPE`."""
    return generate_latest(registry)


class Counts(Collector):
    """A counter for what happens with every request: plain numbers, of one thread, and shown when somebody looks.

    The client library's own locks and checks at each call, which costs ten times as much (2 µs).
    """

    def __init__(self, name: str, text: str, labels: Sequence[str], *, registry: CollectorRegistry) -> None:
        self._family = (name, text, labels)
        self._counts: dict[tuple[str, ...], int] = {} if labels else {(): 0}
        registry.register(self)

    def add(self, *labels: str) -> None:
        """One more with these values of the labels, in their order."""
        self._counts[labels] = self._counts.get(labels, 0) + 1

    def describe(self) -> Iterable[CounterMetricFamily]:
        """What it is called, without looking."""
        name, text, labels = self._family
        return (CounterMetricFamily(name, text, labels=labels),)

    def collect(self) -> Iterable[CounterMetricFamily]:
        """What was counted so far."""
        (family,) = self.describe()
        for labels, count in list(self._counts.items()):
            family.add_metric(labels, count)
        return (family,)


class Times(Collector):
    """A histogram of seconds, as `Counts` is a counter."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], *, buckets: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._family = (name, text, labels)
        self._bounds = tuple(buckets)
        self._names = [*map(floatToGoString, self._bounds), "+Inf"]
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        registry.register(self)

    def add(self, seconds: float, *labels: str) -> None:
        """One took so long; values of the labels in their order."""
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = [0] * len(self._names)
            self._sums[labels] = 0.0
        counts[bisect_left(self._bounds, seconds)] += 1
        self._sums[labels] += seconds

    def describe(self) -> Iterable[HistogramMetricFamily]:
        """What it is called, without looking."""
        name, text, labels = self._family
        return (HistogramMetricFamily(name, text, labels=labels),)

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """What was counted so far."""
        (family,) = self.describe()
        for labels, counts in list(self._counts.items()):
            family.add_metric(labels, list(zip(self._names, accumulate(counts), strict=True)), self._sums[labels])
        return (family,)
