"""The event log as the executor needs it. Implemented by `shared_kernel.event_log` (fast client) and, for unit tests, in memory."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from shared_kernel.errors import Unavailable
from shared_kernel.event_log.types import Appended, Decision, Loaded, Page, Snapshot, SnapshotKey, Tail


class LogSession(Protocol):
    """One connection to the log, used by one task at a time."""

    async def append(
        self,
        ledger: str,
        *,
        seen: int | None,
        decisions: Sequence[Decision],
        tail: Tail,
        is_following: bool = False,
    ) -> Appended:
        """Judges and appends in one round trip; answered means committed. Raises as in `event_log.errors`.

        `is_following`: decided on the append sent just before it, and void (`is_unchained`) unless that one stands as it was.
        """

    async def load(
        self, ledger: str, *, seen: int | None, tags: Sequence[str], snapshots: Sequence[SnapshotKey] = (), tail: Tail
    ) -> Loaded:
        """One consistent look. LedgerNotFound where there is no such ledger."""

    async def page(self, ledger: str, key: SnapshotKey, *, events_max: int) -> Page:
        """An account's latest snapshot and at most so many events after it."""

    def transaction(self, ledgers: Sequence[str]) -> AbstractAsyncContextManager[None]:
        """Loads and appends inside see these ledgers' heads locked, and commit together."""

    async def write_snapshots(self, ledger: str, snapshots: Sequence[Snapshot]) -> None:
        """Keeps them for cold loads; an older one never replaces a newer one."""


class Log(Protocol):
    """Hands out sessions, as many at a time as its bound allows."""

    @property
    def is_contended(self) -> bool:
        """Somebody waits for a session: whoever has one and could go on with it gives it back first."""

    def borrow(self) -> AbstractAsyncContextManager[LogSession]:
        """A session for the block. After OutcomeUnknown in it the old backend is gone before the error leaves the block."""

    def unavailable(self) -> Unavailable | None:
        """What new commands are told at once, while nobody is let through to the log. Costs nothing."""

    def announce(self, ledger: str) -> None:
        """Wakes whoever waits for new events of the ledger, soon and outside any append."""
