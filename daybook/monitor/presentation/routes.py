"""What operators ask the monitor: the newest look, the alerts raised now, and what was wrong before.

Any monitor answers, whichever looked last. What names a ledger that the token does not cover is left out.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from litestar import Controller, Request, get
from litestar.datastructures import State
from litestar.di import NamedDependency, Provide
from litestar.params import QueryParameter

from daybook.monitor.application.ports import Records
from daybook.monitor.domain.alerts import Episode
from daybook.monitor.domain.looks import Look
from shared_kernel.security import Principal

HISTORY_LIMIT_MAX = 1_000

Asking = Request[Principal, object, State]
Limit = Annotated[int, QueryParameter(name="limit", ge=1, le=HISTORY_LIMIT_MAX, description="How many at most")]
Before = Annotated[
    int | None, QueryParameter(name="before", required=False, ge=1, description="`next` of the page before")
]


class Locks(msgspec.Struct, frozen=True, kw_only=True):
    """The newest look; none before the first."""

    look: Look | None
    age_ms: int | None


class Alerts(msgspec.Struct, frozen=True, kw_only=True):
    """Alerts that are raised now, the oldest first."""

    data: Sequence[Episode]


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What was wrong, newest first, whether it became an alert or not."""

    data: Sequence[Episode]
    next: int | None


def operator(request: Asking) -> Principal:
    """The caller, who has the role."""
    request.user.require("operator")
    return request.user


class Operations(Controller):
    """For operators."""

    path = "/v1/operations"
    tags = ("operations",)
    dependencies = {"caller": Provide(operator, sync_to_thread=False)}  # noqa: RUF012

    @get("/locks", summary="Who waits for whom, which locks are held, how far everything is behind")
    async def locks(self, *, records: NamedDependency[Records], caller: NamedDependency[Principal]) -> Locks:
        """The newest look of any monitor."""
        look = await records.last_look()
        if look is None:
            return Locks(look=None, age_ms=None)
        age = datetime.now(UTC) - look.taken_at
        return Locks(look=_covered(look, caller), age_ms=max(0, round(age.total_seconds() * 1_000)))

    @get("/alerts", summary="Alerts that are raised now")
    async def alerts(self, *, records: NamedDependency[Records], caller: NamedDependency[Principal]) -> Alerts:
        """Each with what it is about and since when."""
        return Alerts(data=[episode for episode in await records.alerts() if _may_see(episode, caller)])

    @get("/findings", summary="What was wrong, newest first")
    async def findings(
        self,
        *,
        records: NamedDependency[Records],
        caller: NamedDependency[Principal],
        limit: Limit = 100,
        before: Before = None,
    ) -> Findings:
        """As far back as the history reaches."""
        page = await records.history(limit=limit, before=before)
        return Findings(data=[each for each in page.episodes if _may_see(each, caller)], next=page.next)


def _covered(look: Look, caller: Principal) -> Look:
    def may_see(ledger: str) -> bool:
        return not ledger or caller.may_see(ledger)

    return msgspec.structs.replace(
        look,
        locks=[lock for lock in look.locks if may_see(lock.ledger)],
        lags=[lag if may_see(lag.ledger) else msgspec.structs.replace(lag, ledger="") for lag in look.lags],
        standing=[standing for standing in look.standing if may_see(standing.ledger)],
    )


def _may_see(episode: Episode, caller: Principal) -> bool:
    ledgers = str(episode.detail.get("ledger") or episode.detail.get("first") or "")
    return all(caller.may_see(ledger) for ledger in ledgers.split(", ") if ledger)
