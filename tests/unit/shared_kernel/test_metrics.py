"""Figures that are kept in plain numbers show what the client library's own would show."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from shared_kernel.metrics import Counts, Times, render

BUCKETS = (0.001, 0.5, 1.0)
SECONDS = (0.0, 0.001, 0.0011, 0.5, 0.75, 1.0, 30.0)


def shown(registry: CollectorRegistry) -> list[str]:
    """The text of /metrics, without the moment at which the library made each of its own."""
    return [line for line in render(registry).decode().splitlines() if "_created" not in line]


def test_counts_and_times_are_shown_as_the_librarys_own() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counts = Counts("daybook_things", "Things", ("kind", "status"), registry=ours)
    times = Times("daybook_thing_seconds", "Time of a thing", ("kind",), buckets=BUCKETS, registry=ours)
    counter = Counter("daybook_things", "Things", ("kind", "status"), registry=theirs)
    histogram = Histogram("daybook_thing_seconds", "Time of a thing", ("kind",), buckets=BUCKETS, registry=theirs)
    assert shown(ours) == shown(theirs)
    for kind in ("a", "b"):
        for seconds in SECONDS:
            counts.add(kind, "201")
            counter.labels(kind, "201").inc()
            times.add(seconds, kind)
            histogram.labels(kind).observe(seconds)
    assert shown(ours) == shown(theirs)
    assert ours.get_sample_value("daybook_things_total", {"kind": "a", "status": "201"}) == len(SECONDS)
