"""What operators see of ledgers that stand still, and what they may do about them: park, retry, skip.

Each change is one transaction with its row in the trail of operators' actions, and every worker hears of it within a second. Where a
ledger stands, its worker alone says: nothing here moves a position.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, Protocol, runtime_checkable

import msgspec


class StandingLedger(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger that stands still before `position` in a generation of a projection.

    `waiting` goes on by itself, `parked` when an operator says so. `error` names codes, types and places in the code, never what
    an event says. `attempts`: at this position; the first was `since`.
    """

    projection: str
    generation: int
    ledger: str
    position: int
    state: Literal["waiting", "parked"]
    event_type: str
    error_class: str
    error: str
    trace_id: str | None
    attempts: int
    since: datetime
    last_attempt_at: datetime


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """An event that parked its ledger, and what became of it. `published_at`: when Kafka had it; null: not yet."""

    generation: int
    version: int
    position: int
    event_type: str
    error_class: str
    error: str
    trace_id: str | None
    attempts: int
    first_attempt_at: datetime
    last_attempt_at: datetime
    published_at: datetime | None
    resolved_at: datetime | None
    resolution: Literal["applied", "skipped"] | None


class Skip(msgspec.Struct, frozen=True, kw_only=True):
    """An event that a version of the projection leaves out, in every generation. `lifted_at`: no longer, the ledger was repaired."""

    version: int
    position: int
    reason: str
    actor: str
    at: datetime
    lifted_at: datetime | None


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of one ledger's trouble with one projection, the newest first."""

    standing: Sequence[StandingLedger]
    letters: Sequence[Letter]
    skips: Sequence[Skip]


@runtime_checkable  # Litestar looks at what it hands to a route
class Parking(Protocol):
    """Ledgers that stand still. Rejections: `projection_not_found`, `ledger_not_found`, `ledger_not_parked`."""

    def standing(
        self, projection: str | None, *, patterns: Sequence[str] | None, ledgers_max: int
    ) -> Sequence[StandingLedger]:
        """What stands still, parked first, then the longest; of one projection, and of ledgers that one of the regular expressions fits."""

    def inspect(self, projection: str, ledger: str) -> Inspection:
        """One ledger. It need not stand still now."""

    def park(self, projection: str, ledger: str, *, actor: str, reason: str) -> Sequence[StandingLedger]:
        """No worker moves the ledger from where it is now, in any generation, until it is retried."""

    def retry(
        self, projection: str, ledger: str | None, *, patterns: Sequence[str] | None, actor: str, reason: str
    ) -> Sequence[StandingLedger]:
        """Workers try at once what stands still: this ledger, or (None) all that a pattern fits. Answers what they try."""

    def skip(self, projection: str, ledger: str, *, position: int, actor: str, reason: str) -> Sequence[StandingLedger]:
        """The ledger goes on without the event at which it is parked, in every generation of this version, those to come too.

        Its answers from there on are incomplete until it is repaired. Rejection `ledger_not_parked`: not at this position.
        """
