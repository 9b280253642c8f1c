"""The route of refusals. Auditors see all of them; readers those of their own, for what others asked is not theirs to see."""

from typing import Annotated

from litestar import Controller, Response, get
from litestar.di import NamedDependency, Provide
from litestar.openapi.spec import Example
from litestar.params import QueryParameter

from query_service.application import questions, refusal_answers, search, shaping
from query_service.application.filters import Condition
from query_service.application.filters import both as all_of
from query_service.application.pages import LIMIT_DEFAULT, Key, Page
from query_service.application.query_handler import Asked, NotModified, QueryHandler
from query_service.application.reports import fixed
from query_service.presentation import report_examples
from query_service.presentation.parameters import (
    AccountFilter,
    CursorText,
    FilterText,
    Limit,
    OrderBy,
    Reading,
    both,
    reader,
    time_of,
)
from query_service.presentation.responses import POSITIONED, answered, on_not_modified
from shared_kernel.errors import Rejection

ACCOUNTS_MAX = 10  # chosen: shown with their state in one refusal
ASSETS_MAX = 50  # chosen: shown of one account

CodeFilter = Annotated[
    str | None,
    QueryParameter(
        name="code",
        required=False,
        pattern=r"^[^\x00]*$",
        max_length=100,
        examples=[Example(value="insufficient_funds")],
        description="Only refusals with this code",
    ),
]
CallerFilter = Annotated[
    str | None,
    QueryParameter(
        name="caller",
        required=False,
        pattern=r"^[^\x00]*$",
        max_length=300,
        examples=[Example(value="local-writer")],
        description="Only what this token subject asked for; `clock` for scheduled transactions that came due",
    ),
]
FromTime = Annotated[
    str | None,
    QueryParameter(
        name="from",
        required=False,
        schema_extra={"format": "date-time"},
        examples=[Example(value="2026-11-24T00:00:00Z")],
        description="Recorded at or after this time, which must have come",
    ),
]
UntilTime = Annotated[
    str | None,
    QueryParameter(
        name="until",
        required=False,
        schema_extra={"format": "date-time"},
        examples=[Example(value="2026-11-25T00:00:00Z")],
        description="Recorded before this time; one that lies ahead: up to the position that the answer is as of",
    ),
]


class Refusals(Controller):
    """What the rules turned down in one ledger."""

    path = "/v1/ledgers/{ledger:str}/refusals"
    tags = ("log",)
    dependencies = {"asked": Provide(reader, sync_to_thread=False)}  # noqa: RUF012
    exception_handlers = {NotModified: on_not_modified}  # noqa: RUF012
    response_headers = POSITIONED

    @get("/", summary="Refusals by code, caller, account and time", description=report_examples.REFUSALS)
    async def refusals(
        self,
        *,
        handler: NamedDependency[QueryHandler],
        request: Reading,
        asked: NamedDependency[Asked],
        code: CodeFilter = None,
        caller: CallerFilter = None,
        account: AccountFilter = None,
        begins_at: FromTime = None,
        ends_at: UntilTime = None,
        filter: FilterText = None,  # noqa: A002 - the parameter's name in the API
        order: OrderBy = "newest",
        limit: Limit = LIMIT_DEFAULT,
        cursor: CursorText = None,
    ) -> Response[refusal_answers.RefusalList]:
        """With the state that each was judged on."""
        if not request.user.may("auditor"):
            caller = _own(request, caller)
        tree = both(filter, search.REFUSAL_FIELDS, code=code, caller=caller, account=account)
        since, until = time_of("from", begins_at), time_of("until", ends_at)
        for operator, time in ((">=", since), ("<", until)):
            if time is not None:
                tree = all_of(Condition("recorded_at", "time", operator, (time,)), tree)  # type: ignore[arg-type]
        page = Page.of_list(
            *("refusals", *asked.named(), code, caller, account, begins_at, ends_at, filter, order),
            limit=limit,
            cursor=cursor,
        )
        question, looked_up = search.refusals(tree, order=order)
        snapshot = await handler.ask(
            question,
            asked._replace(begins_at=since, cursor=page.cursor),
            after_position=page.after(order).position,
            limit=page.rows_max(),
            **looked_up,
        )
        rows, next_cursor = page.found(
            snapshot.rows, snapshot.stamp, lambda row: Key(position=row.walked_to), walk_max=search.WALK_MAX
        )
        looked_at = refusal_answers.looked_at(rows, ACCOUNTS_MAX)
        states = await handler.ask(
            questions.JUDGED,
            fixed(asked, snapshot.stamp),
            addresses=[address for address, _ in looked_at],
            positions=[position for _, position in looked_at],
            assets_max=ASSETS_MAX,
        )
        judged = refusal_answers.judged(looked_at, states.rows)
        answer = refusal_answers.RefusalList(
            data=[refusal_answers.refusal(row, judged) for row in rows],
            next_cursor=next_cursor,
            **shaping.stamped(snapshot.stamp),
        )
        return answered(answer, snapshot.stamp, asked)


def _own(request: Reading, caller: str | None) -> str:
    subject = request.user.subject
    if caller not in (None, subject):
        raise Rejection("forbidden", detail="Role auditor sees what others were refused")
    return subject
