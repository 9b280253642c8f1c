"""How long relay and projector rest between two batches.

The first event goes at once. Behind it many wait for one batch, which costs far less an event than many small ones; and whoever
works hard rests long, so that on a busy machine the read side takes its share in large pieces and leaves the rest to the commands.
"""

REST_RATIO = (
    3  # measured (ADR 0009): a quarter of a core at the most for small batches, all of it once batches are full
)


def rest_s(*, worked_s: float, round_ms: int, rest_ms_max: int) -> float:
    """Seconds to rest after a batch that took `worked_s`: until `round_ms` from its beginning, and REST_RATIO times the work up
    to `rest_ms_max`.
    """
    return max(round_ms / 1_000 - worked_s, min(worked_s * REST_RATIO, rest_ms_max / 1_000), 0.0)
