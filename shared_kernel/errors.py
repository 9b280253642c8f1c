"""The one tree of errors: what can go wrong, in the words of the books.

Adapters translate driver errors into these at their own edge; `problems.py` alone turns them into HTTP. Context is fields,
never formatted text; events and secrets never go in.
"""

from typing import ClassVar

Field = str | int | bool | None | list[str] | dict[str, str | int]


class DaybookError(Exception):
    """Something went wrong."""

    def __init__(self, code: str, **fields: Field) -> None:
        super().__init__(code)
        self.code = code
        self.fields = fields

    def __str__(self) -> str:
        return self.code if not self.fields else f"{self.code} {self.fields}"


class Refusal(DaybookError):
    """The books say no: a rule turned the command down. The caller's business; recorded, never retried."""


class Rejection(DaybookError):
    """The request cannot be taken as it stands: malformed, unknown, unauthorised or already decided. Never recorded."""


class Contention(DaybookError):
    """Somebody else was there first; the same may succeed in a moment."""

    def __init__(self, code: str, *, retry_after_ms: int = 100, **fields: Field) -> None:
        super().__init__(code, **fields)
        self.retry_after_ms = retry_after_ms


class Unavailable(DaybookError):
    """A neighbour is down or too slow."""

    retry_after_ms: ClassVar[int] = 1_000


class SaysNothing(Exception):
    """A call of a neighbour failed, and that says nothing of the neighbour: to its breaker neither a failure nor an answer, whatever else it is."""


class Corruption(DaybookError):
    """What must never be is: stop and alert."""
