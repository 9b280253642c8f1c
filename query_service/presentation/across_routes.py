"""The routes of reports across ledgers: each ledger by itself, as of a position of its own, and all of them together."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated

from litestar import Controller, Response, get
from litestar.di import NamedDependency
from litestar.openapi.spec import Example
from litestar.params import QueryParameter

from query_service.application import report_answers, reports, shaping
from query_service.application.query_handler import Asked, QueryHandler, Stamp
from query_service.application.reports import Group, Sum, Sums
from query_service.presentation import report_examples
from query_service.presentation.parameters import (
    POSITION_HEADER,
    AddressPattern,
    AsOfTime,
    EffectiveAt,
    KnownHeader,
    PreferHeader,
    Reading,
    Segments,
    known_versions,
    pattern,
    time_of,
    variant,
    wait_ms,
)
from query_service.presentation.responses import (
    VERSIONED,
    NoneModified,
    answered_of_all,
    on_none_modified,
    require_modified,
    version_of_all,
)
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
    exception_handlers = {NoneModified: on_none_modified}  # noqa: RUF012
    response_headers = VERSIONED

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
        known: KnownHeader = None,
    ) -> Response[report_answers.LedgersSumsAnswer]:
        """Each ledger, and all together."""
        whole, asked = _asked(request, ledgers, as_of=as_of, effective_at=effective_at, prefer=prefer, known=known)
        found = await _add_up(handler, whole, asked, of=pattern(address), segments=segments)
        shown = [
            report_answers.LedgerSums(
                ledger=each.ledger or "",
                data=report_answers.summed(sums.by_group),
                **shaping.stamped(sums.stamp),
            )
            for each, sums in zip(asked, found, strict=True)
        ]
        answer = report_answers.LedgersSumsAnswer(
            ledgers=shown,
            together=report_answers.summed(_together(found)),
            complete=all(ledger.complete for ledger in shown),
        )
        return answered_of_all(answer, _version(asked, [sums.stamp for sums in found]), whole)

    @get("/trial-balance", summary="Trial balance of several ledgers", description=report_examples.TRIAL_BALANCE_ACROSS)
    async def trial_balance(
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
        known: KnownHeader = None,
    ) -> Response[report_answers.LedgersTrialBalanceAnswer]:
        """Each ledger, and all together."""
        whole, asked = _asked(request, ledgers, as_of=as_of, effective_at=effective_at, prefer=prefer, known=known)
        of = pattern(address)
        found = await _add_up(handler, whole, asked, of=of, segments=segments)
        together = _together(found)
        shown = [
            report_answers.LedgerTrialBalance(
                ledger=each.ledger or "",
                assets=report_answers.trial_balance(sums.by_group, of),
                groups=report_answers.trial_groups(sums.by_group, segments),
                **shaping.stamped(sums.stamp),
            )
            for each, sums in zip(asked, found, strict=True)
        ]
        answer = report_answers.LedgersTrialBalanceAnswer(
            address=of.text,
            ledgers=shown,
            together=report_answers.trial_balance(together, of),
            together_groups=report_answers.trial_groups(together, segments),
            complete=all(ledger.complete for ledger in shown),
        )
        return answered_of_all(answer, _version(asked, [sums.stamp for sums in found]), whole)


def _asked(
    request: Reading,
    ledgers: str,
    *,
    as_of: str | None,
    effective_at: str | None,
    prefer: str | None,
    known: str | None,
) -> tuple[Asked, list[Asked]]:
    """What is asked of all ledgers, and of each. Positions are a ledger's own, so none can be asked for."""
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
        known=known_versions(known),
        variant=variant(request),
    )
    return whole, [whole._replace(ledger=name, known=frozenset()) for name in names]


def _version(asked: Sequence[Asked], stamps: Sequence[Stamp]) -> str:
    """Names the answer by what each ledger is as of."""
    return version_of_all(f"{each.ledger} {each.version(stamp)}" for each, stamp in zip(asked, stamps, strict=True))


async def _add_up(
    handler: QueryHandler, whole: Asked, asked: Sequence[Asked], *, of: Pattern, segments: int
) -> list[Sums]:
    """One after the other: a report must not take all connections. NoneModified where the client has all of it."""
    if whole.names_versions():
        stamps = [await handler.stamp(reports.sums_question(each), each) for each in asked]
        require_modified(_version(asked, stamps), whole)
    return [await reports.add_up(handler, each, of=of, segments=segments) for each in asked]


def _together(found: Sequence[Sums]) -> dict[Group, Sum]:
    together: dict[Group, list[Sum]] = defaultdict(list)
    for sums in found:
        for group, total in sums.by_group.items():
            together[group].append(total)
    return {group: reports.added(totals) for group, totals in together.items()}
