"""Bounds of connections to Postgres, for tests that make the projector's own."""

from typing import Final

from projections.infrastructure.postgres import PostgresBounds

BOUNDS: Final = PostgresBounds(
    connect_ms=5_000, silence_ms=15_000, lock_ms=5_000, statement_ms=120_000, idle_ms=30_000, transaction_ms=240_000
)
