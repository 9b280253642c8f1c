"""Exports of what was posted: CSV, and journals that hledger and beancount read. Streamed, as of one position that the head states."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import tzinfo
from typing import Final, NamedTuple

from litestar import Controller, Response, get
from litestar.di import NamedDependency, Provide
from litestar.openapi.datastructures import ResponseSpec

from query_service.application import journals
from query_service.application.exports import Exported, Exports, Sides
from query_service.application.query_handler import Asked, NotModified, Stamp
from query_service.presentation import log_examples
from query_service.presentation.parameters import reader
from query_service.presentation.responses import POSITIONED, headers, on_not_modified
from query_service.presentation.streams import Pieces, StreamedAnswer, Streams
from shared_kernel.words import format_time

CSV: Final = "text/csv"
PLAIN: Final = "text/plain"


class _Ending(NamedTuple):
    """What a file is called after the ledger and the position, and its media type."""

    name: str
    media_type: str


class Download(Controller):
    """What was posted in one ledger, as files."""

    path = "/v1/ledgers/{ledger:str}/exports"
    tags = ("exports",)
    dependencies = {"asked": Provide(reader, sync_to_thread=False)}  # noqa: RUF012
    exception_handlers = {NotModified: on_not_modified}  # noqa: RUF012
    response_headers = POSITIONED

    @get(
        "/entries.csv",
        summary="Posted entries as CSV",
        description=log_examples.CSV,
        responses={
            200: ResponseSpec(str, media_type=CSV, description="A line an entry, RFC 4180", generate_examples=False)
        },
        media_type=CSV,
    )
    async def entries_csv(
        self, *, exports: NamedDependency[Exports], streams: NamedDependency[Streams], asked: NamedDependency[Asked]
    ) -> Response[str]:
        """One line an entry, in the order of the log."""
        streams.require_room()
        pieces = exports.pieces(asked)
        first = await anext(pieces)

        async def text() -> Pieces:
            yield journals.csv_head().encode()
            async for piece in _begun(first, pieces):
                yield journals.csv_rows(piece.postings).encode()

        return _download(text(), streams, first.stamp, asked, _Ending("csv", CSV))

    @get(
        "/hledger.journal",
        summary="A journal for hledger",
        description=log_examples.HLEDGER,
        responses={200: ResponseSpec(str, media_type=PLAIN, description="A journal", generate_examples=False)},
        media_type=PLAIN,
    )
    async def hledger_journal(
        self, *, exports: NamedDependency[Exports], streams: NamedDependency[Streams], asked: NamedDependency[Asked]
    ) -> Response[str]:
        """A transaction for each event that posted something."""
        streams.require_room()
        pieces = exports.pieces(asked)
        first, zone = await anext(pieces), await exports.zone(asked)

        async def text() -> Pieces:
            yield _head(first.stamp, asked, zone).encode()
            async for piece in _begun(first, pieces):
                yield "".join(journals.hledger_posting(posting, zone) for posting in piece.postings).encode()
            yield _foot(first.stamp, asked).encode()

        return _download(text(), streams, first.stamp, asked, _Ending("journal", PLAIN))

    @get(
        "/ledger.beancount",
        summary="A journal for beancount",
        description=log_examples.BEANCOUNT,
        responses={200: ResponseSpec(str, media_type=PLAIN, description="A journal", generate_examples=False)},
        media_type=PLAIN,
    )
    async def ledger_beancount(
        self, *, exports: NamedDependency[Exports], streams: NamedDependency[Streams], asked: NamedDependency[Asked]
    ) -> Response[str]:
        """Accounts where they were opened, and a transaction for each event that posted something."""
        streams.require_room()
        pieces = exports.pieces(asked, with_accounts=True)
        first, zone = await anext(pieces), await exports.zone(asked)
        sides = Sides(exports, asked)

        async def text() -> Pieces:
            yield _head(first.stamp, asked, zone).encode()
            async for piece in _begun(first, pieces):
                await sides.learn(piece)
                opened = [journals.beancount_open(each.address, each.normal_balance) for each in piece.opened]
                posted = [journals.beancount_posting(posting, zone, sides.of) for posting in piece.postings]
                yield "".join((*opened, *posted)).encode()
            yield _foot(first.stamp, asked).encode()

        return _download(text(), streams, first.stamp, asked, _Ending("beancount", PLAIN))


EXPORT_ROUTES = (Download,)


async def _begun(first: Exported, others: AsyncGenerator[Exported, None]) -> AsyncGenerator[Exported, None]:
    async with aclosing(others):
        yield first
        async for piece in others:
            yield piece


def _download(pieces: Pieces, streams: Streams, stamp: Stamp, asked: Asked, ending: _Ending) -> StreamedAnswer:
    name = f"{(asked.ledger or '').replace(':', '_')}-{stamp.position}.{ending.name}"
    return StreamedAnswer(
        pieces,
        streams,
        media_type=ending.media_type,
        headers=headers(stamp, asked) | {"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _head(stamp: Stamp, asked: Asked, zone: tzinfo) -> str:
    at = "" if stamp.recorded_at is None else format_time(stamp.recorded_at)
    return f"; The ledger {asked.ledger} as of position {stamp.position}, recorded at {at}; days of {zone}\n\n"


def _foot(stamp: Stamp, asked: Asked) -> str:
    return f"; End of the ledger {asked.ledger} as of position {stamp.position}\n"
