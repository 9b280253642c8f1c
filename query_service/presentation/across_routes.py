"""The routes of reports across ledgers: each ledger by itself, as of a position of its own, and all of them together."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.openapi.spec import Example
from litestar.params import QueryParameter

from query_service.application import report_answers, reports, shaping
from query_service.application.query_handler import Asked, QueryHandler
from query_service.application.reports import Group, Sum, Sums
from query_service.presentation import report_examples
from query_service.presentation.parameters import (
    POSITION_HEADER,
    AddressPattern,
    AsOfTime,
    EffectiveAt,
    PreferHeader,
    Reading,
    Segments,
    pattern,
    time_of,
    wait_ms,
)
from query_service.presentation.report_routes import EVERYTHING
from shared_kernel.errors import Rejection
from shared_kernel.words import Pattern

LEDGERS_MAX = 20  # chosen: each is a report of its own

LedgersFilter = Annotated[
    str,
    QueryParameter(
        name="ledgers",
        max_length=2_000,
        examples=[Example(value="bank,shop")],
        description=f"Names of up to {LEDGERS_MAX} ledgers, separated by commas",
    ),
]


class Across(Controller):
    """Several ledgers in one call."""

    path = "/v1"
    tags = ("reports",)

    @get(
        "/balances", summary="Balances summed over accounts of several ledgers", description=report_examples.SUMS_ACROSS
    )
    async def balances(
        self,
        *,
        handler: NamedDependency[QueryHandler],
        request: Reading,
        ledgers: LedgersFilter,
        address: AddressPattern = None,
        segments: Segments = 0,
        as_of: AsOfTime = None,
        effective_at: EffectiveAt = None,
        prefer: PreferHeader = None,
    ) -> report_answers.LedgersSumsAnswer:
        """Each ledger, and all together."""
        asked = _asked(request, ledgers, as_of, effective_at, prefer)
        found = await _add_up(handler, asked, of=pattern(address), segments=segments)
        shown = [
            report_answers.LedgerSums(
                ledger=each.ledger or "",
                data=report_answers.summed(sums.by_group),
                **shaping.stamped(sums.stamp),
            )
            for each, sums in zip(asked, found, strict=True)
        ]
        return report_answers.LedgersSumsAnswer(
            ledgers=shown,
            together=report_answers.summed(_together(found)),
            complete=all(ledger.complete for ledger in shown),
        )

    @get("/trial-balance", summary="Trial balance of several ledgers", description=report_examples.TRIAL_BALANCE_ACROSS)
    async def trial_balance(
        self,
        *,
        handler: NamedDependency[QueryHandler],
        request: Reading,
        ledgers: LedgersFilter,
        as_of: AsOfTime = None,
        effective_at: EffectiveAt = None,
        prefer: PreferHeader = None,
    ) -> report_answers.LedgersTrialBalanceAnswer:
        """Each ledger, and all together."""
        asked = _asked(request, ledgers, as_of, effective_at, prefer)
        found = await _add_up(handler, asked, of=EVERYTHING, segments=0)
        shown = [
            report_answers.LedgerTrialBalance(
                ledger=each.ledger or "",
                assets=report_answers.trial_balance(sums.by_group.items()),
                **shaping.stamped(sums.stamp),
            )
            for each, sums in zip(asked, found, strict=True)
        ]
        return report_answers.LedgersTrialBalanceAnswer(
            ledgers=shown,
            together=report_answers.trial_balance(_together(found).items()),
            complete=all(ledger.complete for ledger in shown),
        )


def _asked(
    request: Reading, ledgers: str, as_of: str | None, effective_at: str | None, prefer: str | None
) -> list[Asked]:
    """What is asked of each ledger. Positions are a ledger's own, so none can be asked for."""
    if POSITION_HEADER in request.headers:
        raise Rejection("invalid_request", detail="A position belongs to one ledger", path=POSITION_HEADER)
    names = ledgers.split(",")
    if len(names) > LEDGERS_MAX or len(set(names)) < len(names) or "" in names:
        detail = f"Names of up to {LEDGERS_MAX} ledgers, each once, separated by commas"
        raise Rejection("invalid_request", detail=detail, path="ledgers")
    for name in names:
        request.user.require_on("reader", name)
    whole = Asked(
        ledger=None,
        wait_ms=wait_ms(prefer),
        at_time=time_of("as_of", as_of),
        effective_at=time_of("effective_at", effective_at),
    )
    return [whole._replace(ledger=name) for name in names]


async def _add_up(handler: QueryHandler, asked: Sequence[Asked], *, of: Pattern, segments: int) -> list[Sums]:
    """One after the other: a report must not take all connections."""
    return [await reports.add_up(handler, each, of=of, segments=segments) for each in asked]


def _together(found: Sequence[Sums]) -> dict[Group, Sum]:
    together: dict[Group, list[Sum]] = defaultdict(list)
    for sums in found:
        for group, total in sums.by_group.items():
            together[group].append(total)
    return {group: reports.added(totals) for group, totals in together.items()}
