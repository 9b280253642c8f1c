"""The operators' API for ledgers that stand still: looked at, parked, tried again, let go on without an event."""

from typing import Annotated

import msgspec
from litestar import Controller, get, post
from litestar.di import NamedDependency, Provide
from litestar.params import JSONBody, PathParameter
from msgspec import Meta

from projections.application.operations import Asker
from projections.application.parking import Inspection, Parking, StandingLedger
from projections.presentation.operations_routes import (
    NO_NUL,
    REASON_LENGTH_MAX,
    Asking,
    Limit,
    ProjectionPath,
    WithReason,
    ledger_named,
    operator,
)

LedgerPath = Annotated[str, PathParameter(pattern=NO_NUL, description="A ledger")]


class StandingList(msgspec.Struct, frozen=True, kw_only=True):
    """Ledgers that stand still, in any generation of a projection."""

    data: list[StandingLedger]


class SkipWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which event is to be left out, and why, which is needed."""

    position: Annotated[int, Meta(ge=1, le=2**63 - 1, description="The event at which the ledger is parked")]
    reason: Annotated[
        str,
        Meta(min_length=1, max_length=REASON_LENGTH_MAX, pattern=NO_NUL, description="Why: it stands in the trail"),
    ]


class Standing(Controller):
    """Ledgers that stand still."""

    path = "/v1/operations/projections/{projection:str}/standing"
    tags = ("parking",)
    dependencies = {"asker": Provide(operator, sync_to_thread=False)}  # noqa: RUF012

    @get("/", summary="Ledgers that stand still", sync_to_thread=True)
    def standing(
        self,
        *,
        parking: NamedDependency[Parking],
        asker: NamedDependency[Asker],
        projection: ProjectionPath,
        limit: Limit = 100,
    ) -> StandingList:
        """Parked ones first, then those that have waited longest. `waiting` goes on by itself, `parked` when an operator says so."""
        return StandingList(data=list(parking.standing(projection, patterns=asker.ledgers, ledgers_max=limit)))

    @get("/{ledger:str}", summary="One ledger's trouble", sync_to_thread=True)
    def inspect(
        self,
        *,
        parking: NamedDependency[Parking],
        request: Asking,
        asker: NamedDependency[Asker],
        projection: ProjectionPath,
        ledger: LedgerPath,
    ) -> Inspection:
        """Where it stands and why, its dead letters and what became of them, and what was skipped."""
        return parking.inspect(projection, ledger_named(request, ledger))

    @post("/{ledger:str}/park", summary="Park a ledger", status_code=200, sync_to_thread=True)
    def park(
        self,
        *,
        parking: NamedDependency[Parking],
        request: Asking,
        asker: NamedDependency[Asker],
        projection: ProjectionPath,
        ledger: LedgerPath,
        data: JSONBody[WithReason | None] = None,
    ) -> StandingList:
        """No worker moves the ledger from where it is, in any generation, until it is retried."""
        reason = "" if data is None else data.reason
        found = parking.park(projection, ledger_named(request, ledger), actor=asker.subject, reason=reason)
        return StandingList(data=list(found))

    @post("/{ledger:str}/retry", summary="Try a ledger again", status_code=200, sync_to_thread=True)
    def retry(
        self,
        *,
        parking: NamedDependency[Parking],
        request: Asking,
        asker: NamedDependency[Asker],
        projection: ProjectionPath,
        ledger: LedgerPath,
        data: JSONBody[WithReason | None] = None,
    ) -> StandingList:
        """Workers try at once. 409 `ledger_not_parked` where it does not stand still."""
        return _retried(parking, asker, projection, ledger_named(request, ledger), data)

    @post("/retry", summary="Try all again", status_code=200, sync_to_thread=True)
    def retry_all(
        self,
        *,
        parking: NamedDependency[Parking],
        asker: NamedDependency[Asker],
        projection: ProjectionPath,
        data: JSONBody[WithReason | None] = None,
    ) -> StandingList:
        """Workers try all that stand still at once."""
        return _retried(parking, asker, projection, None, data)

    @post("/{ledger:str}/skip", summary="Skip an event", status_code=200, sync_to_thread=True)
    def skip(
        self,
        *,
        parking: NamedDependency[Parking],
        request: Asking,
        asker: NamedDependency[Asker],
        projection: ProjectionPath,
        ledger: LedgerPath,
        data: JSONBody[SkipWish],
    ) -> StandingList:
        """The ledger goes on without the event at which it is parked, in rebuilds too; answers on it say `complete: false`
        until the ledger is repaired. 409 `ledger_not_parked` where it is not parked at this position.
        """
        found = parking.skip(
            projection, ledger_named(request, ledger), position=data.position, actor=asker.subject, reason=data.reason
        )
        return StandingList(data=list(found))


def _retried(
    parking: Parking, asker: Asker, projection: str, ledger: str | None, data: WithReason | None
) -> StandingList:
    reason = "" if data is None else data.reason
    tried = parking.retry(projection, ledger, patterns=asker.ledgers, actor=asker.subject, reason=reason)
    return StandingList(data=list(tried))
