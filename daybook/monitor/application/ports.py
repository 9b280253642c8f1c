"""What the watch needs of the world, by role; `infrastructure` has the one that uses Postgres, Redis and HTTP."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol, runtime_checkable

import msgspec

from daybook.monitor.domain.alerts import Action, Episode
from daybook.monitor.domain.cancelling import Step
from daybook.monitor.domain.looks import Chain, Lag, Lock, Look, Process, Session, Standing


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Some episodes, newest first; `next` goes on after them."""

    episodes: Sequence[Episode]
    next: int | None


class Turn(Protocol):
    """One look at Postgres, in one transaction."""

    async def last(self) -> Look | None: ...
    async def sessions(self) -> list[Session]: ...
    async def deadlocks(self) -> dict[str, int]: ...
    async def relay_lease(self) -> list[Lock]: ...
    async def lags(self) -> list[Lag]: ...
    async def standing(self) -> list[Standing]: ...
    async def open_episodes(self) -> list[Episode]: ...
    async def signal(self, chain: Chain, step: Step) -> Action: ...
    async def keep(self, look: Look, episodes: Sequence[Episode], *, rows_max: int, days_max: int) -> None: ...


class Watched(Protocol):
    """Postgres, as the watch uses it. Raises Unavailable."""

    async def due(self, after_ms: int) -> datetime | None: ...
    async def was_kept(self, taken_at: datetime) -> bool | None: ...
    def turn(self, after_ms: int) -> AbstractAsyncContextManager[Turn | None]: ...
    async def alerts(self) -> list[Episode]: ...


@runtime_checkable
class Records(Protocol):
    """What was seen, by whichever monitor. Raises Unavailable."""

    async def last_look(self) -> Look | None:
        """The newest look; None before the first."""
        ...

    async def alerts(self) -> list[Episode]:
        """Those that are raised now, the oldest first."""
        ...

    async def history(self, *, limit: int, before: int | None) -> Page:
        """The newest findings before that id."""
        ...


class LockTable(Protocol):
    """The locks in Redis."""

    async def locks(self) -> tuple[list[Lock], str]:
        """All there are, up to a bound, and why that is not everything; an empty text: it is."""
        ...


class Processes(Protocol):
    """What Daybook's processes say of themselves."""

    async def ask(self) -> tuple[list[Process], str]:
        """One for each, and why nobody was asked."""
        ...


class Bell(Protocol):
    """Tells somebody outside."""

    def ring(self, event: str, episode: Episode) -> None:
        """Takes it and returns at once; it is told in the background, or given up after so many attempts."""
        ...


class Figures(Protocol):
    """What is counted."""

    def looked(self, look: Look, seconds: float) -> None: ...
    def failed(self) -> None: ...
    def found(self, kind: str) -> None: ...
    def raised(self, kind: str) -> None: ...
    def alerts_are(self, kinds: Sequence[str]) -> None: ...
    def acted(self, action: Action) -> None: ...
