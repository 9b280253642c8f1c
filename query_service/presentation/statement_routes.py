"""The routes of one account and asset through time: its statement, as JSON, CSV or a page to print, and its balance explained."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Literal

from litestar import Controller, Response, get
from litestar.di import NamedDependency, Provide
from litestar.openapi.spec import Example, OpenAPIMediaType, OpenAPIResponse, Operation, Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import QueryParameter

from query_service.application import account_statements, questions, report_answers, shaping
from query_service.application.account_statements import Axis, Period
from query_service.application.explaining import ExplanationAnswer, explain
from query_service.application.pages import LIMIT_DEFAULT, Key, Page
from query_service.application.query_handler import Asked, NotModified, QueryHandler
from query_service.presentation import report_examples, statement_forms
from query_service.presentation.parameters import (
    AddressPath,
    CursorText,
    Limit,
    Reading,
    dated_reader,
    instant,
    known_address,
    preferred,
    reader,
    time_of,
)
from query_service.presentation.responses import POSITIONED, answered, headers, on_not_modified
from query_service.presentation.streams import StreamedAnswer, Streams
from shared_kernel.errors import Rejection
from shared_kernel.words import ASSET, format_time

Form = Literal["json", "csv", "html"]
FORMS: dict[str, Form] = {"application/json": "json", "text/csv": "csv", "text/html": "html"}
MEDIA_TYPES = {form: media_type for media_type, form in FORMS.items()}
# A statement loads nothing from anywhere; its style stands in itself.
CONTENT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

AssetOf = Annotated[
    str,
    QueryParameter(
        name="asset", pattern=ASSET, examples=[Example(value="CZK/2")], description="The asset, such as EUR/2"
    ),
]
AxisOf = Annotated[
    Axis,
    QueryParameter(name="axis", description="By `recorded` time, or by `effective` time as far as the books know it"),
]
FromTime = Annotated[
    str | None,
    QueryParameter(
        name="from",
        required=False,
        schema_extra={"format": "date-time"},
        examples=[Example(value="2026-03-01T00:00:00Z")],
        description="Where the period begins, included; absent: with the first entry. By recorded time it must have come",
    ),
]
UntilTime = Annotated[
    str | None,
    QueryParameter(
        name="until",
        required=False,
        schema_extra={"format": "date-time"},
        examples=[Example(value="2026-04-01T00:00:00Z")],
        description="Where the period ends, not included; absent: with the last entry. It may lie ahead: the statement then goes as far"
        " as the position that it is as of",
    ),
]
FormOf = Annotated[
    Form | None,
    QueryParameter(name="format", required=False, description="Instead of an Accept header: `json`, `csv` or `html`"),
]


class Forms(Operation):
    """Describes the two media types that a statement may have besides JSON."""

    def __post_init__(self) -> None:
        answer = (self.responses or {}).get("200")
        if isinstance(answer, OpenAPIResponse) and answer.content is not None:
            for media_type, text in statement_forms.DESCRIPTIONS.items():
                answer.content[media_type] = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING, description=text))


class Statements(Controller):
    """One account and asset."""

    path = "/v1/ledgers/{ledger:str}/accounts/{address:str}"
    tags = ("reports",)
    dependencies = {  # noqa: RUF012
        "asked": Provide(reader, sync_to_thread=False),
        "dated": Provide(dated_reader, sync_to_thread=False),
    }
    exception_handlers = {NotModified: on_not_modified}  # noqa: RUF012
    response_headers = POSITIONED

    @get("/statement", summary="Statement", description=report_examples.STATEMENT, operation_class=Forms)
    async def statement(
        self,
        *,
        handler: NamedDependency[QueryHandler],
        streams: NamedDependency[Streams],
        request: Reading,
        dated: NamedDependency[Asked],
        address: AddressPath,
        asset: AssetOf,
        axis: AxisOf = "recorded",
        begins_at: FromTime = None,
        ends_at: UntilTime = None,
        format: FormOf = None,  # noqa: A002 - the parameter's name in the API
        limit: Limit = LIMIT_DEFAULT,
        cursor: CursorText = None,
    ) -> Response[report_answers.StatementAnswer]:
        """Of a period, with opening, running and closing balance."""
        bounds = (time_of("from", begins_at), time_of("until", ends_at), dated.effective_at)
        period = Period(known_address(address), asset, axis, *bounds)
        if period.begins_at is not None and period.ends_at is not None and period.ends_at < period.begins_at:
            raise Rejection("invalid_request", detail="Before the period begins", path="until")
        wanted = format or FORMS[preferred(request.headers.get("accept"), tuple(FORMS))]
        if wanted != "json":
            refuse_with(request, "limit", "cursor")
            streams.require_room()
            return await _whole(handler, streams, dated._replace(variant=f"-{wanted}"), period, wanted)
        page = Page.of_list(
            *("statement", *dated.named(), address, asset, axis, begins_at, ends_at), limit=limit, cursor=cursor
        )
        after = page.after("oldest")
        found = await account_statements.read(
            handler,
            dated._replace(cursor=page.cursor),
            period,
            after=account_statements.After(instant(after.text), after.position, after.ordinal),
            limit=page.limit,
        )
        answer = account_statements.answer(
            period, found, next_cursor=None if found.end is None else page.going_on(found.end, found.stamp)
        )
        return answered(answer, found.stamp, dated)

    @get("/explanation", summary="A balance explained", description=report_examples.EXPLANATION)
    async def explanation(
        self,
        *,
        handler: NamedDependency[QueryHandler],
        dated: NamedDependency[Asked],
        address: AddressPath,
        asset: AssetOf,
        limit: Limit = LIMIT_DEFAULT,
        cursor: CursorText = None,
    ) -> Response[ExplanationAnswer]:
        """As the ordered list of the events that made it."""
        page = Page.of_list("explanation", *dated.named(), address, asset, limit=limit, cursor=cursor)
        after = page.after("oldest")
        is_by_position = dated.effective_at is None
        snapshot = await handler.ask(
            questions.EXPLANATION if is_by_position else questions.EFFECTIVE_EXPLANATION,
            dated._replace(cursor=page.cursor),
            address=known_address(address),
            asset=asset,
            after_time=instant(after.text),
            after_position=after.position,
            limit=page.rows_max(),
        )
        if not snapshot.rows:
            raise Rejection("account_not_found", account=address)
        rows, next_cursor = page.cut(
            snapshot.rows,
            snapshot.stamp,
            lambda row: Key(text="" if is_by_position else format_time(row.effective_at), position=row.position or 0),
        )
        found = explain(rows, account=address, asset=asset, is_last=next_cursor is None)
        answer = ExplanationAnswer(
            account=address,
            asset=asset,
            balance=found.balance,
            opening=found.opening,
            data=list(found.steps),
            checked=found.is_right,
            next_cursor=next_cursor,
            **shaping.stamped(snapshot.stamp),
        )
        return answered(answer, snapshot.stamp, dated)


async def _whole(
    handler: QueryHandler, streams: Streams, asked: Asked, period: Period, form: Form
) -> Response[report_answers.StatementAnswer]:
    """The statement from its first line to its last, a page at a time; the first is read before anything is sent."""
    pages = account_statements.pages(handler, asked, period)
    first = await anext(pages)
    made = statement_forms.csv_pieces if form == "csv" else statement_forms.html_pieces

    async def pieces() -> AsyncGenerator[bytes, None]:
        async with aclosing(pages):
            async for piece in made(period, asked.ledger or "", first, pages):
                yield piece

    name = f"{asked.ledger}-{period.address}-{period.asset}".replace(":", "_").replace("/", "_")
    return StreamedAnswer(
        pieces(),
        streams,
        media_type=MEDIA_TYPES[form],
        headers={
            **headers(first.stamp, asked),
            "Content-Disposition": f'inline; filename="{name}.{form}"',
            "Content-Security-Policy": CONTENT_POLICY,
        },
    )


def refuse_with(request: Reading, *names: str) -> None:
    """Rejection `invalid_request` where parameters of pages come with what has none."""
    for name in names:
        if name in request.query_params:
            raise Rejection("invalid_request", detail="Only JSON comes in pages", path=name)
