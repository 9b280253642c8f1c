"""A connection of psycopg's past its cursors, for what every round of a projector does: prepared statements in one trip, COPYs in one
statement. A cursor takes four times as long for the same, most of a small round (measured).

Knows neither tables nor transactions. Whatever waits here has let go of the interpreter, for the other threads of the process.
"""

import select
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, LiteralString

from psycopg import OperationalError, pq

from shared_kernel.transactions import error_of

PIECE_BYTES: Final = 256 * 1024  # chosen: what libpq holds of a COPY at once, beside the text itself

_BINARY: Final = pq.Format.BINARY

Call = tuple[str, Sequence[bytes | None]]
"""A statement's name, and its parameters."""


class Wire:
    """As long as its connection; nobody else may use that meanwhile. Errors are psycopg's, and leave the connection whole or closed.

    A server that says nothing for `wait_ms`, longer than any statement may take, is lost: whatever lies between may go on
    acknowledging what it is sent.
    """

    def __init__(self, pgconn: pq.abc.PGconn, statements: Mapping[str, LiteralString], *, wait_ms: int) -> None:
        self._pgconn = pgconn
        self._wait_ms = wait_ms
        self._statements: dict[str, str] = {**statements}
        self._prepared: set[str] = set()
        self._readable, self._either = select.poll(), select.poll()
        self._readable.register(pgconn.socket, select.POLLIN)
        self._either.register(pgconn.socket, select.POLLIN | select.POLLOUT)

    def learn(self, statements: Mapping[str, str]) -> None:
        """More statements have names."""
        self._statements.update(statements)

    def execute(self, *calls: Call, unchecked: int = 0) -> list[pq.abc.PGresult]:
        """The named statements ran one after the other, inside the transaction that is open; a result of each, its values as text.

        Parameters are in Postgres's binary format. One trip but for what runs the first time, which is prepared before. How the
        last `unchecked` went is for `check` to tell, when the caller has seen from the others that it matters.
        """
        for name, _ in calls:
            self._prepare(name)
        results = []
        try:
            self._pgconn.enter_pipeline_mode()
            for name, parameters in calls:
                formats = [_BINARY] * len(parameters)
                self._pgconn.send_query_prepared(name.encode(), parameters, formats)
            self._pgconn.pipeline_sync()
            self._flush()
            while (result := self._next()) is None or result.status != pq.ExecStatus.PIPELINE_SYNC:
                if result is not None:
                    results.append(result)
            self._pgconn.exit_pipeline_mode()
        except BaseException:
            self._pgconn.finish()  # somewhere in the middle: nobody could tell whose answer comes next
            raise
        self.check(results[: len(calls) - unchecked])
        return results

    def check(self, results: Sequence[pq.abc.PGresult]) -> None:
        """Raises for the first that failed."""
        for result in results:
            self._check(result)

    def ask(self, name: str, parameters: Sequence[bytes]) -> pq.abc.PGresult:
        """The named statement ran, by itself where no transaction is open; both parameters and values are in the binary format."""
        self._prepare(name)
        result = self._pgconn.exec_prepared(name.encode(), parameters, [_BINARY] * len(parameters), _BINARY)
        self._check(result)
        return result

    def copy(self, statements: Sequence[bytes], texts: Iterable[bytes]) -> None:
        """Every `copy … from stdin` has taken its text. After an error none of the transaction counts."""
        failed = None
        try:
            self._pgconn.send_query(b"; ".join(statements))
            self._flush()
            coming = iter(texts)
            while (result := self._next()) is not None:
                if result.status == pq.ExecStatus.COPY_IN:
                    self._put(next(coming))
                elif result.status != pq.ExecStatus.COMMAND_OK:
                    failed = result
        except BaseException:
            self._pgconn.finish()
            raise
        if failed is not None:
            self._check(failed)

    def _prepare(self, name: str) -> None:
        if name not in self._prepared:
            self._check(self._pgconn.prepare(name.encode(), self._statements[name].encode()))
            self._prepared.add(name)

    def _put(self, text: bytes) -> None:
        for start in range(0, len(text), PIECE_BYTES):
            if not self._pgconn.put_copy_data(text[start : start + PIECE_BYTES]):
                raise MemoryError("libpq has no room for a piece of a COPY")
            self._flush()
        self._pgconn.put_copy_end()
        self._flush()

    def _flush(self) -> None:
        while self._pgconn.flush():
            for _, event in self._awaited(self._either):
                if event & ~select.POLLOUT:  # the server may be unable to read before we have
                    self._pgconn.consume_input()

    def _next(self) -> pq.abc.PGresult | None:
        while self._pgconn.is_busy():
            self._awaited(self._readable)
            self._pgconn.consume_input()
        return self._pgconn.get_result()

    def _awaited(self, wire: select.poll) -> list[tuple[int, int]]:
        if not (events := wire.poll(self._wait_ms)):
            raise OperationalError("the server says nothing")
        return events

    def _check(self, result: pq.abc.PGresult) -> None:
        if result.status in (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.PIPELINE_ABORTED):
            raise error_of(result)


def rows_of(result: pq.abc.PGresult) -> list[tuple[bytes | None, ...]]:
    """All rows, each value as the server sent it."""
    columns = range(result.nfields)
    return [tuple([result.get_value(row, column) for column in columns]) for row in range(result.ntuples)]
