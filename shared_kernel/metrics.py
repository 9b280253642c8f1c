"""Prometheus metrics: what all processes share. Each process defines its own figures on a registry of its own.

Names are `daybook_<part>_<what>_<unit>`, counters end in `_total`. Labels have few values: never an account, a ledger,
a subject or a path with ids in it.
"""

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE

__all__ = ["CONTENT_TYPE", "LATENCY_BUCKETS", "SIZE_BUCKETS", "new_registry", "render"]

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
