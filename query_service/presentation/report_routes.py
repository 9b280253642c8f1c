"""The routes of reports on one ledger: sums over accounts, the trial balance, and what changed between two positions."""

from typing import Annotated

from litestar import Controller, Response, get
from litestar.di import NamedDependency, Provide
from litestar.openapi.spec import Example
from litestar.params import QueryParameter

from query_service.application import report_answers, reports, shaping
from query_service.application.pages import LIMIT_DEFAULT, POSITION_MAX, Page
from query_service.application.query_handler import Asked, NotModified, QueryHandler
from query_service.presentation import report_examples
from query_service.presentation.parameters import (
    AddressPattern,
    CursorText,
    Limit,
    Segments,
    dated_reader,
    pattern,
    reader,
    time_of,
)
from query_service.presentation.responses import POSITIONED, answered, on_not_modified
from shared_kernel.errors import Rejection
from shared_kernel.words import format_time

FromPosition = Annotated[
    int,
    QueryParameter(
        name="from_position",
        ge=0,
        le=POSITION_MAX,
        examples=[Example(value=12)],
        description="The position before; 0: before anything was posted",
    ),
]
ToPosition = Annotated[
    int | None,
    QueryParameter(
        name="to_position",
        ge=1,
        le=POSITION_MAX,
        required=False,
        examples=[Example(value=17)],
        description="The position after; absent: the newest",
    ),
]
EffectiveUntil = Annotated[
    str | None,
    QueryParameter(
        name="effective_until",
        required=False,
        schema_extra={"format": "date-time"},
        examples=[Example(value="2026-04-01T00:00:00Z")],
        description="Only what is effective before this time counts: the end of the period that was closed",
    ),
]


class Reports(Controller):
    """Sums and differences of one ledger."""

    path = "/v1/ledgers/{ledger:str}"
    tags = ("reports",)
    dependencies = {  # noqa: RUF012
        "asked": Provide(reader, sync_to_thread=False),
        "dated": Provide(dated_reader, sync_to_thread=False),
    }
    exception_handlers = {NotModified: on_not_modified}  # noqa: RUF012
    response_headers = POSITIONED

    @get("/balances", summary="Balances summed over accounts", description=report_examples.SUMS)
    async def balances(
        self,
        *,
        handler: NamedDependency[QueryHandler],
        dated: NamedDependency[Asked],
        address: AddressPattern = None,
        segments: Segments = 0,
    ) -> Response[report_answers.SumsAnswer]:
        """Of the accounts that fit a pattern, grouped by leading segments."""
        sums = await reports.add_up(handler, dated, of=pattern(address), segments=segments)
        answer = report_answers.SumsAnswer(data=report_answers.summed(sums.by_group), **shaping.stamped(sums.stamp))
        return answered(answer, sums.stamp, dated)

    @get("/trial-balance", summary="Trial balance", description=report_examples.TRIAL_BALANCE)
    async def trial_balance(
        self,
        *,
        handler: NamedDependency[QueryHandler],
        dated: NamedDependency[Asked],
        address: AddressPattern = None,
        segments: Segments = 0,
    ) -> Response[report_answers.TrialBalanceAnswer]:
        """Debits and credits of all accounts, or of those that fit a pattern, by asset and by leading segments."""
        of = pattern(address)
        sums = await reports.add_up(handler, dated, of=of, segments=segments)
        answer = report_answers.TrialBalanceAnswer(
            address=of.text,
            assets=report_answers.trial_balance(sums.by_group, of),
            groups=report_answers.trial_groups(sums.by_group, segments),
            **shaping.stamped(sums.stamp),
        )
        return answered(answer, sums.stamp, dated)

    @get("/balances/diff", summary="What changed between two positions", description=report_examples.CHANGES)
    async def changes(
        self,
        *,
        handler: NamedDependency[QueryHandler],
        asked: NamedDependency[Asked],
        from_position: FromPosition,
        to_position: ToPosition = None,
        effective_until: EffectiveUntil = None,
        address: AddressPattern = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: CursorText = None,
    ) -> Response[report_answers.ChangeList]:
        """By account and asset, each with the entries that did it."""
        if to_position is not None and to_position < from_position:
            raise Rejection("invalid_request", detail="Before from_position", path="to_position")
        until = time_of("effective_until", effective_until)
        fits = pattern(address)
        page = Page.of_list(
            *("changes", *asked.named(), from_position, to_position, effective_until, address),
            limit=limit,
            cursor=cursor,
        )
        found = await reports.changes(
            handler,
            asked._replace(
                position=max(asked.position or 0, from_position) or None,
                at_position=_smaller(asked.at_position, to_position),
                cursor=page.cursor,
            ),
            of=fits,
            from_position=from_position,
            until=until,
            after=page.after("oldest"),
            rows_max=page.limit,
        )
        stamp = found.stamp
        answer = report_answers.ChangeList(
            data=[report_answers.change(changed) for changed in found.found],
            next_cursor=None if found.goes_on is None else page.going_on(found.goes_on, stamp),
            from_position=from_position,
            to_position=stamp.position or 1,
            effective_until=None if until is None else format_time(until),
            **shaping.stamped(stamp),
        )
        return answered(answer, stamp, asked)


def _smaller(one: int | None, other: int | None) -> int | None:
    return min((position for position in (one, other) if position is not None), default=None)
