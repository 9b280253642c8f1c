"""The operators' API: how projections and relay stand, and what is to become of them. Any projector process answers.

The role `operator` is needed for all of it. A token that covers some ledgers only shows only those.
"""

from typing import Annotated

import msgspec
from litestar import Controller, Request, get, post
from litestar.datastructures import State
from litestar.di import NamedDependency, Provide
from litestar.params import JSONBody, PathParameter, QueryParameter
from msgspec import Meta

from projections.application.jobs import Job, JobList
from projections.application.operations import (
    ActionList,
    Asker,
    Operations,
    ProjectionList,
    ProjectionStatus,
    ProjectionSummary,
    RelayStatus,
)
from shared_kernel.errors import Rejection
from shared_kernel.security import Principal

REASON_LENGTH_MAX = 500  # chosen: a sentence, and the number of a ticket
LEDGERS_MAX = 1_000
NO_NUL = r"^[^\x00]*$"  # Postgres has no such text

Asking = Request[Principal, object, State]
ProjectionPath = Annotated[str, PathParameter(pattern=NO_NUL, description="A projection, such as books")]
LedgerFilter = Annotated[
    str | None,
    QueryParameter(name="ledger", required=False, pattern=NO_NUL, description="Only this ledger"),
]
ProjectionFilter = Annotated[
    str | None,
    QueryParameter(name="projection", required=False, pattern=NO_NUL, description="Only this projection"),
]
Before = Annotated[
    int | None,
    QueryParameter(
        name="before", ge=1, le=2**63 - 1, required=False, description="Only what was done before the action of this id"
    ),
]
Limit = Annotated[int, QueryParameter(name="limit", ge=1, le=LEDGERS_MAX, description="How many are shown at most")]
Reason = Annotated[
    str, Meta(max_length=REASON_LENGTH_MAX, pattern=NO_NUL, description="Why: it stands in the trail of actions")
]


class WithReason(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator says with an action."""

    reason: Reason = ""


class RebuildWish(WithReason, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a projection is to be built anew."""

    events_per_second_max: (
        Annotated[int, Meta(ge=1, le=10_000_000, description="No faster than this; absent: as fast as it goes")] | None
    ) = None
    ledger: Annotated[str, Meta(pattern=NO_NUL, description="Only this ledger, in place")] | None = None


class OfGeneration(WithReason, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which generation is meant."""

    generation: (
        Annotated[
            int, Meta(ge=1, le=2**31 - 1, description="Its number; absent: the newest that is whole and was never live")
        ]
        | None
    ) = None


class SwapWish(OfGeneration, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which generation readers are to see."""

    force: Annotated[bool, Meta(description="Even if no comparison has passed; it stands in the trail")] = False


class RepairWish(WithReason, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be mended."""

    ledger: Annotated[str, Meta(pattern=NO_NUL, description="The ledger")]
    account: Annotated[str, Meta(pattern=NO_NUL, description="Only this account of it; absent: all")] | None = None


class Reconciling(WithReason, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be looked at."""

    ledger: Annotated[str, Meta(pattern=NO_NUL, description="Only this ledger; absent: all")] | None = None


class DropWish(WithReason, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which generation is not needed any more."""

    generation: Annotated[int, Meta(ge=1, le=2**31 - 1, description="Its number")]


def operator(request: Asking) -> Asker:
    """Who asks; Rejection `forbidden` without the role."""
    caller = request.user
    caller.require("operator")
    patterns = [pattern.text for pattern in caller.ledgers]
    return Asker(
        subject=caller.subject,
        ledgers=None if "**" in patterns else [pattern.regex() for pattern in caller.ledgers],
    )


def because(asker: Asker, data: WithReason | None) -> Asker:
    """The same, with the reason that the body gives."""
    return asker if data is None else msgspec.structs.replace(asker, reason=data.reason)


def ledger_of(request: Asking, ledger: str | None) -> str | None:
    """A ledger that the token covers; another looks absent."""
    if ledger is not None and not request.user.may_see(ledger):
        raise Rejection("ledger_not_found", ledger=ledger)
    return ledger


def ledger_named(request: Asking, ledger: str) -> str:
    """The same, of a ledger that must be named."""
    ledger_of(request, ledger)
    return ledger


class Projections(Controller):
    """All projections, and one of them."""

    path = "/v1/operations/projections"
    tags = ("projections",)
    dependencies = {"asker": Provide(operator, sync_to_thread=False)}  # noqa: RUF012

    @get("/", summary="Projections by name", sync_to_thread=True)
    def projections(self, *, operations: NamedDependency[Operations], asker: NamedDependency[Asker]) -> ProjectionList:
        """Each with its live generation and how far that is behind the log.

        `state`: `running`, `paused` by an operator, `stopped` until an operator acts (the database was restored, too many ledgers
        are parked: `trouble` says it), `absent` (never built). The answer takes a second, in which the rates are measured.
        """
        return operations.projections()

    @get("/{projection:str}", summary="One projection", sync_to_thread=True)
    def projection(
        self,
        *,
        operations: NamedDependency[Operations],
        request: Asking,
        asker: NamedDependency[Asker],
        projection: ProjectionPath,
        ledger: LedgerFilter = None,
        limit: Limit = 100,
    ) -> ProjectionStatus:
        """Its generations, and its ledgers: first those that stand still, then those most behind.

        The answer takes a second, in which the rates are measured.
        """
        return operations.projection(projection, asker, ledger=ledger_of(request, ledger), limit=limit)

    @post("/{projection:str}/pause", summary="Pause", status_code=200, sync_to_thread=True)
    def pause(
        self,
        *,
        operations: NamedDependency[Operations],
        asker: NamedDependency[Asker],
        projection: ProjectionPath,
        data: JSONBody[WithReason | None] = None,
    ) -> ProjectionSummary:
        """No process feeds the projection within a second, until it is resumed. Readers go on, as of where it stands."""
        return operations.pause(projection, because(asker, data))

    @post("/{projection:str}/resume", summary="Resume", status_code=200, sync_to_thread=True)
    def resume(
        self,
        *,
        operations: NamedDependency[Operations],
        asker: NamedDependency[Asker],
        projection: ProjectionPath,
        data: JSONBody[WithReason | None] = None,
    ) -> ProjectionSummary:
        """The projection is fed again within a second, from where it stood."""
        return operations.resume(projection, because(asker, data))

    @post("/{projection:str}/rebuild", summary="Rebuild", status_code=202, sync_to_thread=True)
    def rebuild(
        self,
        *,
        operations: NamedDependency[Operations],
        request: Asking,
        asker: NamedDependency[Asker],
        projection: ProjectionPath,
        data: JSONBody[RebuildWish | None] = None,
    ) -> Job:
        """A new generation is built from the log while the live one serves; then it is fed beside it, for `verify` and `swap`.

        The job in the answer tells how far it is. With `ledger` only that ledger is folded anew, in place: as `repair`.
        409 `rebuild_running` while there is another.
        """
        wish = data or RebuildWish()
        because_of = because(asker, wish)
        if wish.ledger is not None:
            return operations.repair(projection, because_of, ledger=ledger_named(request, wish.ledger))
        return operations.rebuild(projection, because_of, events_per_second_max=wish.events_per_second_max)

    @post("/{projection:str}/verify", summary="Verify", status_code=202, sync_to_thread=True)
    def verify(
        self,
        *,
        operations: NamedDependency[Operations],
        asker: NamedDependency[Asker],
        projection: ProjectionPath,
        data: JSONBody[OfGeneration | None] = None,
    ) -> Job:
        """A generation is compared with the live one, each ledger as of a position that both have: by digest, table by table.

        The job in the answer says in the end whether it `has_passed`, and in `findings` which rows differ first.
        """
        wish = data or OfGeneration()
        return operations.verify(projection, because(asker, wish), generation=wish.generation)

    @post("/{projection:str}/swap", summary="Swap", status_code=200, sync_to_thread=True)
    def swap(
        self,
        *,
        operations: NamedDependency[Operations],
        asker: NamedDependency[Asker],
        projection: ProjectionPath,
        data: JSONBody[SwapWish | None] = None,
    ) -> ProjectionSummary:
        """Readers see the generation from now on: the newest that waits, or the one that is named.

        409 `not_verified` where the last comparison with the live one did not pass, unless forced; `generation_behind`, forced
        or not, where a reader would go back. The live side is held for two seconds at most, until the other has caught up.
        """
        wish = data or SwapWish()
        return operations.swap(projection, because(asker, wish), generation=wish.generation, is_forced=wish.force)

    @post("/{projection:str}/rollback", summary="Roll back", status_code=200, sync_to_thread=True)
    def rollback(
        self,
        *,
        operations: NamedDependency[Operations],
        asker: NamedDependency[Asker],
        projection: ProjectionPath,
        data: JSONBody[WithReason | None] = None,
    ) -> ProjectionSummary:
        """Readers see the generation that was live before, which was fed all the time."""
        return operations.rollback(projection, because(asker, data))

    @post("/{projection:str}/drop", summary="Drop a generation", status_code=200, sync_to_thread=True)
    def drop(
        self,
        *,
        operations: NamedDependency[Operations],
        asker: NamedDependency[Asker],
        projection: ProjectionPath,
        data: JSONBody[DropWish],
    ) -> ProjectionSummary:
        """The generation's tables are gone; what builds it ends. Never the live one."""
        return operations.drop(projection, because(asker, data), generation=data.generation)

    @post("/{projection:str}/repair", summary="Repair a ledger or an account", status_code=202, sync_to_thread=True)
    def repair(
        self,
        *,
        operations: NamedDependency[Operations],
        request: Asking,
        asker: NamedDependency[Asker],
        projection: ProjectionPath,
        data: JSONBody[RepairWish],
    ) -> Job:
        """A ledger of the live generation is folded anew from the log and put in place of what stands there, in one transaction.

        Only if the new rows, once there, have the digest of the fold; `findings` say what differed before. With `account` only
        the rows of that account are replaced; 409 `no_rows_by_account` where the projection keeps none by account.
        """
        ledger = ledger_named(request, data.ledger)
        return operations.repair(projection, because(asker, data), ledger=ledger, account=data.account)

    @post("/{projection:str}/reconcile", summary="Reconcile", status_code=202, sync_to_thread=True)
    def reconcile(
        self,
        *,
        operations: NamedDependency[Operations],
        request: Asking,
        asker: NamedDependency[Asker],
        projection: ProjectionPath,
        data: JSONBody[Reconciling | None] = None,
    ) -> Job:
        """The live generation is compared with a fold of the log, each ledger as of one position; nothing is changed.

        A difference is an alert, and `findings` name the rows.
        """
        wish = data or Reconciling()
        return operations.reconcile(projection, because(asker, wish), ledger=ledger_of(request, wish.ledger))

    @get("/{projection:str}/jobs", summary="Jobs", sync_to_thread=True)
    def jobs(
        self,
        *,
        operations: NamedDependency[Operations],
        asker: NamedDependency[Asker],
        projection: ProjectionPath,
        limit: Limit = 20,
    ) -> JobList:
        """What was asked for that takes long, the newest first."""
        return operations.jobs(projection, limit=limit)

    @get("/{projection:str}/jobs/{job:int}", summary="One job", sync_to_thread=True)
    def job(
        self,
        *,
        operations: NamedDependency[Operations],
        asker: NamedDependency[Asker],
        projection: ProjectionPath,
        job: Annotated[int, PathParameter(ge=1, le=2**63 - 1, description="The job's id")],
    ) -> Job:
        """How far it is: events done and in all, events a second, seconds left; in the end what it found."""
        return operations.job(projection, job)


class Trail(Controller):
    """What operators did."""

    path = "/v1/operations/trail"
    tags = ("trail",)
    dependencies = {"asker": Provide(operator, sync_to_thread=False)}  # noqa: RUF012

    @get("/", summary="What operators did", sync_to_thread=True)
    def trail(
        self,
        *,
        operations: NamedDependency[Operations],
        request: Asking,
        asker: NamedDependency[Asker],
        projection: ProjectionFilter = None,
        ledger: LedgerFilter = None,
        before: Before = None,
        limit: Limit = 100,
    ) -> ActionList:
        """Who did what, when and why, the newest first. Nobody can change what stands there."""
        return operations.trail(
            asker, projection=projection, ledger=ledger_of(request, ledger), before=before, limit=limit
        )


class Relay(Controller):
    """The relay, which publishes the log to Kafka."""

    path = "/v1/operations/relay"
    tags = ("relay",)
    dependencies = {"asker": Provide(operator, sync_to_thread=False)}  # noqa: RUF012

    @get("/", summary="The relay", sync_to_thread=True)
    def relay(
        self,
        *,
        operations: NamedDependency[Operations],
        request: Asking,
        asker: NamedDependency[Asker],
        ledger: LedgerFilter = None,
        limit: Limit = 100,
    ) -> RelayStatus:
        """Which relay holds the lease, and what it has not published yet. The answer takes a second, as that of a projection."""
        return operations.relay(asker, ledger=ledger_of(request, ledger), limit=limit)
