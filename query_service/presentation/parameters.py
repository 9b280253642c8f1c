"""What clients may say beside the path: parameters and headers, declared once for all routes and read strictly.

Who may read what is decided here too: `reader` for the books, `auditor` for the log itself, since the log holds what
others asked and were refused. A ledger that the token does not cover looks absent.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from litestar import Request
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.openapi.spec import Example
from litestar.params import HeaderParameter, PathParameter, QueryParameter

from query_service.application import filters
from query_service.application.filters import Condition, Fields, Kind, Tree, parse
from query_service.application.pages import LIMIT_MAX, POSITION_MAX
from query_service.application.query_handler import ANY_VERSION, Asked, QueryHandler
from query_service.application.questions import AccountStatus, Order, TransactionStatus
from query_service.application.search import Sort
from shared_kernel.errors import Rejection
from shared_kernel.http_context import context_of
from shared_kernel.security import Principal
from shared_kernel.words import ADDRESS_LENGTH_MAX, EVERY_ADDRESS, Pattern, is_address, parse_time

SEGMENTS_MAX = 128  # an address of 256 characters has no more
TAG_LENGTH_MAX = 1_000  # chosen: a percent-encoded key or reference of 200 characters fits
POSITION_HEADER = "Daybook-Position"
_WEIGHT = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")  # RFC 9110 §12.4.2
_NO_NUL = r"^[^\x00]*$"  # Postgres has no such text

Reading = Request[Principal, object, State]

LedgerPath = Annotated[
    str, PathParameter(examples=[Example(value="bank")], description="A ledger that the token covers")
]
AddressPath = Annotated[
    str,
    PathParameter(
        examples=[Example(value="users:42:wallet")], description="An account's address, such as users:42:wallet"
    ),
]
TransactionPath = Annotated[
    str,
    PathParameter(examples=[Example(value="0199d5a2-6f6e-7cc0-8a1b-3d2f6f1c9b10")], description="A transaction's id"),
]
PositionPath = Annotated[
    str, PathParameter(examples=[Example(value="17")], description="An event's position in the ledger's log: 1, 2, 3 …")
]

Limit = Annotated[int, QueryParameter(name="limit", ge=1, le=LIMIT_MAX, description="How many rows a page has at most")]
CursorText = Annotated[
    str | None,
    QueryParameter(
        name="cursor",
        required=False,
        examples=[Example(value="WyI1ZjJ…")],
        description="`next_cursor` of the page before, with the same filters",
    ),
]
OrderBy = Annotated[Order, QueryParameter(name="order", description="`newest` or `oldest` first, by position")]
AddressPattern = Annotated[
    str | None,
    QueryParameter(
        name="address",
        required=False,
        max_length=ADDRESS_LENGTH_MAX,
        examples=[Example(value="users:*:wallet")],
        description="A pattern: `*` stands for one segment, a final `**` for the rest: `users:*:wallet`",
    ),
]
AccountFilter = Annotated[
    str | None,
    QueryParameter(
        name="account",
        required=False,
        pattern=_NO_NUL,
        max_length=ADDRESS_LENGTH_MAX,
        examples=[Example(value="bank:clients:**")],
        description="Only those with an entry of this address, or of one that fits this pattern",
    ),
]
ReferenceFilter = Annotated[
    str | None,
    QueryParameter(
        name="reference",
        required=False,
        pattern=_NO_NUL,
        max_length=200,
        examples=[Example(value="berka-695247")],
        description="Only the one with this reference",
    ),
]
AssetFilter = Annotated[
    str | None,
    QueryParameter(
        name="asset",
        required=False,
        pattern=_NO_NUL,
        max_length=32,
        examples=[Example(value="CZK/2")],
        description="Only entries in this asset, such as EUR/2",
    ),
]
FilterText = Annotated[
    str | None,
    QueryParameter(
        name="filter",
        required=False,
        pattern=_NO_NUL,
        max_length=filters.LENGTH_MAX,
        examples=[Example(value='status = open and metadata.shop = "7"')],
        description="Conditions on fields with `and`, `or`, `not` and brackets, such as"
        ' `status = pending and (metadata.shop = "7" or not amount.EUR/2 >= 100)`; docs/api.md has the grammar and the fields',
    ),
]
AccountStatusFilter = Annotated[
    AccountStatus | None, QueryParameter(name="status", required=False, description="Only accounts with this status")
]
TransactionStatusFilter = Annotated[
    TransactionStatus | None,
    QueryParameter(name="status", required=False, description="Only transactions with this status"),
]
SortBy = Annotated[
    Sort,
    QueryParameter(name="sort", description="By `position` (of the transaction's birth) or by `effective_at`"),
]
WithBalances = Annotated[
    bool, QueryParameter(name="balances", description="`true`: each account with its balances by asset")
]
Segments = Annotated[
    int,
    QueryParameter(
        name="segments",
        ge=0,
        le=SEGMENTS_MAX,
        examples=[Example(value=2)],
        description="Grouped by so many leading segments; 0: all together",
    ),
]
TagFilter = Annotated[
    str | None,
    QueryParameter(
        name="tag",
        required=False,
        pattern=_NO_NUL,
        max_length=TAG_LENGTH_MAX,
        examples=[Example(value="account:users:42:wallet")],
        description="Only events that bear the tag: `account:<address>`, `terms:<address>`, `transaction:<id>`,"
        " `reference:<reference>`, `refused:<address>`, `key:<subject>:<key>` (parts percent-encoded), `ledger-terms`",
    ),
]
FromPosition = Annotated[
    int,
    QueryParameter(
        name="from_position",
        ge=1,
        le=POSITION_MAX,
        examples=[Example(value=1)],
        description="The first position that may be shown: one beyond the head at most, which is what comes next",
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
        description="The last position that may be shown, and the one that the answer is as of; absent: the head. Not beyond the"
        " head, but for `text/event-stream`, which ends there",
    ),
]
PositionHeader = Annotated[
    str | None,
    HeaderParameter(
        name=POSITION_HEADER,
        required=False,
        schema_extra={"pattern": "^[1-9][0-9]{0,18}$"},  # `pattern` would refuse it under another name
        examples=[Example(value="17")],
        description="The answer must know this position of the ledger: give what a command answered with, and you read your own writes",
    ),
]
PreferHeader = Annotated[
    str | None,
    HeaderParameter(
        name="Prefer",
        required=False,
        examples=[Example(value="wait=5")],
        description="`wait=5`: wait up to 5 seconds for the position (RFC 7240); then 503 `read_model_behind`",
    ),
]
KnownHeader = Annotated[
    str | None,
    HeaderParameter(
        name="If-None-Match",
        required=False,
        examples=[Example(value='"17-1-0199d5a2-0f3c-7b1d-9a54-2c8e6d7f1a03"')],
        description="`ETag` of an answer that the client has: 304 without a body where it still stands. `*`: wherever there is one",
    ),
]
AsOfPosition = Annotated[
    int | None,
    QueryParameter(
        name="as_of_position",
        ge=1,
        le=POSITION_MAX,
        required=False,
        examples=[Example(value=17)],
        description="As the books were just after this event: later ones do not count. Such an answer never changes",
    ),
]
AsOfTime = Annotated[
    str | None,
    QueryParameter(
        name="as_of",
        required=False,
        schema_extra={"format": "date-time"},
        examples=[Example(value="2026-04-05T12:00:00Z")],
        description="As the books were known at this time: what was recorded later does not count. Of this and `as_of_position`"
        " the smaller prefix of the log counts",
    ),
]
EffectiveAt = Annotated[
    str | None,
    QueryParameter(
        name="effective_at",
        required=False,
        schema_extra={"format": "date-time"},
        examples=[Example(value="2026-03-31T23:59:59.999999Z")],
        description="Only what is effective at or before this time counts, as far as the books (of `as_of`) know it",
    ),
]


def reader(
    request: Reading,
    ledger: LedgerPath,
    *,
    handler: NamedDependency[QueryHandler],
    seen: PositionHeader = None,
    prefer: PreferHeader = None,
    known: KnownHeader = None,
    as_of_position: AsOfPosition = None,
    as_of: AsOfTime = None,
) -> Asked:
    """What somebody who may read the books asks of a ledger.

    `handler` is named so that Litestar resolves it first: two dependencies side by side cost a task each, 90 µs a request.
    """
    request.user.require_on("reader", ledger)
    return Asked(
        ledger=ledger,
        position=_position(seen),
        wait_ms=wait_ms(prefer),
        at_position=as_of_position,
        at_time=time_of("as_of", as_of),
        known=known_versions(known),
        variant=variant(request),
    )


def dated_reader(asked: NamedDependency[Asked], effective_at: EffectiveAt = None) -> Asked:
    """The same, for what has an effective time beside the recorded one."""
    return asked._replace(effective_at=time_of("effective_at", effective_at))


def auditor(request: Reading, ledger: LedgerPath, *, seen: PositionHeader = None, known: KnownHeader = None) -> Asked:
    """What somebody who may read the log itself asks of a ledger. There is nothing to wait for: the log is the truth."""
    request.user.require_on("auditor", ledger)
    return Asked(ledger=ledger, position=_position(seen), known=known_versions(known), variant=variant(request))


def reader_of_all(request: Reading, known: KnownHeader = None) -> Asked:
    """What somebody asks of all ledgers. Positions are a ledger's own, so none can be asked for."""
    request.user.require("reader")
    if POSITION_HEADER in request.headers:
        raise Rejection("invalid_request", detail="A position belongs to one ledger", path=POSITION_HEADER)
    return Asked(ledger=None, known=known_versions(known), variant=variant(request))


def _position(text: str | None) -> int | None:
    """Read here, since a fault must bear the header's name."""
    if text is None:
        return None
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
    if not 1 <= number <= POSITION_MAX:
        raise Rejection("invalid_request", detail="Not a position: 1, 2, 3 …", path=POSITION_HEADER)
    return number


def wait_ms(prefer: str | None) -> int | None:
    """The wait that a Prefer header asks for. Preferences that we do not understand are passed over (RFC 7240 §2)."""
    for preference in (prefer or "").split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        seconds = value.strip().strip('"')
        if name.strip().lower() == "wait" and seconds.isascii() and seconds.isdigit():
            return min(int(seconds[:9]), 86_400) * 1000  # the handler bounds it; this keeps the number small
    return None


def preferred(header: str | None, offered: Sequence[str]) -> str:
    """The media type among those offered to which an Accept header gives the most weight (RFC 9110 §12.5.1): of equal ones what
    it names first, else what is offered first. That is also what is sent where none is acceptable.
    """
    weights: dict[str, tuple[float, int]] = {}
    for place, text in enumerate((header or "").lower().split(",")):
        media_range, *parameters = (part.strip() for part in text.split(";"))
        given = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
        if _WEIGHT.fullmatch(given):  # what has no weight in the grammar is passed over
            weights.setdefault(media_range, (float(given), -place))

    def weight(media_type: str) -> tuple[float, int]:
        ranges = (media_type, f"{media_type.partition('/')[0]}/*", "*/*")
        return next((weights[each] for each in ranges if each in weights), (0, 0))

    best = max(offered, key=weight)
    return best if weight(best)[0] else offered[0]


def pattern(text: str | None) -> Pattern:
    """The pattern of an address filter; absent, the one that fits all."""
    if text is None:
        return EVERY_ADDRESS
    try:
        return Pattern.parse(text)
    except ValueError as error:
        raise Rejection("invalid_request", detail=f"The pattern is {error}", path="address") from error


def time_of(name: str, text: str | None) -> datetime | None:
    """The time in the parameter of that name. Rejection `invalid_request` where it is not one."""
    if text is None:
        return None
    try:
        # A plus sign that was not escaped arrives as a space; no time has a space for anything else.
        return parse_time(text.replace(" ", "+"))
    except ValueError as error:
        raise Rejection("invalid_request", detail="Not an RFC 3339 time with a zone", path=name) from error


def known_versions(header: str | None) -> frozenset[str]:
    """The versions that an If-None-Match header names, weak or strong, or any. What we never gave out matches nothing."""
    if header is None:
        return frozenset()
    if header.strip() == "*":
        return frozenset((ANY_VERSION,))
    tags = frozenset(tag.strip().removeprefix("W/").strip('"') for tag in header.split(","))
    return tags - {ANY_VERSION}  # between quotation marks it is a tag like others


def known_address(address: str) -> str:
    """No account can have an address outside the grammar."""
    if not is_address(address):
        raise Rejection("account_not_found", account=address)
    return address


def instant(text: str) -> datetime | None:
    """The time in a cursor's text. Rejection `invalid_cursor`: somebody made it up."""
    if not text:
        return None
    try:
        return parse_time(text)
    except ValueError as error:
        raise Rejection("invalid_cursor", path="cursor") from error


def variant(request: Reading) -> str:
    """Amounts come as integers or as text."""
    return "-text" if context_of(request.scope).has_text_amounts else ""


def both(filter_text: str | None, fields: Fields, **equals: str | None) -> Tree:
    """The filter, and the parameters that stand for the commonest conditions: `field=value`."""
    tree = parse(filter_text, fields)
    for name, value in equals.items():
        if value is not None:
            tree = filters.both(
                Condition(name, fields[name].kind, "=", (_value(name, fields[name].kind, value),)), tree
            )
    return tree


def _value(name: str, kind: Kind, text: str) -> str:
    if kind == "pattern":
        try:
            Pattern.parse(text)
        except ValueError as error:
            raise Rejection("invalid_request", detail=f"The pattern is {error}", path=name) from error
    return text
