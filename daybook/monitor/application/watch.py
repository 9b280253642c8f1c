"""The watch: every few seconds one look, judged, written, told; where the policy allows it, the session at a chain's root is ended.

The one deep function of the monitor. Any number may run: each look is taken by one of them, and all that is remembered is in
Postgres, so one that is killed or stands still costs at most one look. While Postgres itself cannot be reached, each tells
that for itself.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from time import monotonic

import msgspec
import structlog

from daybook.monitor.application.ports import Bell, Figures, LockTable, Processes, Turn, Watched
from daybook.monitor.domain.alerts import Episode, Hysteresis, judge
from daybook.monitor.domain.cancelling import Policy, root_of, step
from daybook.monitor.domain.findings import Finding, Limits, find, was_looked_at
from daybook.monitor.domain.looks import Chain, Lock, Look, Process, blockers, chains
from shared_kernel.errors import DaybookError

EARLY = 0.9  # a timer that rings a moment too soon must not skip a whole look

_Judged = tuple[Look, list[Episode], list[Episode]]  # the look, the episodes known before it, those judged by it

log = structlog.get_logger(__name__)


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How often it looks, and how much it remembers."""

    look_ms: int
    rows_max: int
    days_max: int


class Watch:
    """One monitor. To be made and used on one event loop."""

    def __init__(
        self,
        *,
        watched: Watched,
        lock_table: LockTable,
        processes: Processes,
        bell: Bell,
        figures: Figures,
        limits: Limits,
        hysteresis: Hysteresis,
        policy: Policy,
        pace: Pace,
        name: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._watched = watched
        self._lock_table = lock_table
        self._processes = processes
        self._bell = bell
        self._figures = figures
        self._limits = limits
        self._hysteresis = hysteresis
        self._policy = policy
        self._pace = pace
        self._name = name
        self._now = now
        self._untold: _Judged | None = None
        self._unreachable: list[Episode] = []
        self._kinds: list[str] = []
        self._well_at = monotonic()

    async def run(self) -> None:
        """Looks until it is cancelled; whatever goes wrong, the next look is taken."""
        while True:
            begun = monotonic()
            try:
                await self.look()
            except DaybookError as error:
                self._reached(str(error.fields.get("reason", error.code)))
            except Exception:
                self._figures.failed()
                log.exception("look_failed")
            await asyncio.sleep(max(0.0, self._pace.look_ms / 1_000 - (monotonic() - begun)))

    async def look(self) -> Look | None:
        """One look, if it is time and nobody else takes it. Raises Unavailable where Postgres cannot be asked."""
        begun = monotonic()
        look: Look | None = None
        kept: _Judged | None = None
        await self._tell_late()
        after_ms = round(self._pace.look_ms * EARLY)
        # From here the next look is counted: one that waits for somebody silent must not put it off.
        if self._untold is None and (at := await self._watched.due(after_ms)) is not None:
            (locks, no_locks), (processes, nobody) = await asyncio.gather(
                self._lock_table.locks(), self._processes.ask()
            )
            skipped = {name: why for name, why in (("redis", no_locks), ("processes", nobody)) if why}
            async with self._watched.turn(after_ms) as turn:
                if turn is not None:
                    kept = self._untold = await self._judge(turn, at, locks, processes, skipped)
            if kept is not None:  # told once it is written: a look that was not kept will be taken again
                self._untold = None
                look, known, judged = kept
                self._tell(known, judged)
                self._figures.looked(look, monotonic() - begun)
        alerts = await self._watched.alerts()
        self._kinds = [episode.kind for episode in alerts]
        self._reached(None)
        return look

    def trouble(self) -> str | None:
        """A health check: what stands in the way of looking, if anything has for three looks."""
        silent_s = monotonic() - self._well_at
        return f"no look for {silent_s:.0f} s" if silent_s > 3 * self._pace.look_ms / 1_000 + 1 else None

    async def _tell_late(self) -> None:
        """The answer to the last look's COMMIT was lost: what was written all the same nobody would tell but for this."""
        if self._untold is not None:
            look, known, judged = self._untold
            was_kept = await self._watched.was_kept(look.taken_at)
            if was_kept:
                self._tell(known, judged)
            if was_kept is not None:
                self._untold = None

    async def _judge(
        self,
        turn: Turn,
        at: datetime,
        locks: Sequence[Lock],
        processes: Sequence[Process],
        skipped: Mapping[str, str],
    ) -> _Judged:
        before = await turn.last()
        sessions = await turn.sessions()
        blocked_before = () if before is None else before.blockers
        found = chains(sessions, at, blocked_before)
        look = Look(
            taken_at=at,
            taken_by=self._name,
            sessions=sessions,
            chains=found,
            blockers=blockers(found, at, blocked_before),
            locks=[*await turn.relay_lease(), *locks],
            lags=await turn.lags(),
            standing=await turn.standing(),
            processes=processes,
            deadlocks=await turn.deadlocks(),
            skipped=skipped,
        )
        known = await turn.open_episodes()
        judged = judge(known, find(look, before, self._limits), at, self._hysteresis, partial(was_looked_at, look))
        judged = [await self._resolved(turn, episode, look.chains) for episode in judged]
        await turn.keep(look, judged, rows_max=self._pace.rows_max, days_max=self._pace.days_max)
        return look, known, judged

    async def _resolved(self, turn: Turn, episode: Episode, found: Sequence[Chain]) -> Episode:
        """The episode, after what the policy asks for was done to its root; said before and recorded with it."""
        chain = root_of(episode, found)
        due = None if chain is None else step(chain, episode.action, self._policy)
        if chain is None or due is None:
            return episode
        whose = "a session of Daybook's own" if chain.root.is_ours else "a session of somebody else's"
        log.warning("session_signalled", operation=due, pid=chain.root.pid, detail=f"{whose}: {_told(episode)}")
        action = await turn.signal(chain, due)
        self._figures.acted(action)
        if action == "failed":
            log.error("session_not_signalled", operation=due, pid=chain.root.pid)
        detail = {**episode.detail, "action": action, "is_daybook": int(chain.root.is_ours)}
        return msgspec.structs.replace(episode, action=action, detail=detail)

    def _tell(self, known: Sequence[Episode], judged: Sequence[Episode]) -> None:
        before = {episode.id: episode for episode in known}
        for episode in judged:
            earlier = before.get(episode.id) if episode.id is not None else None
            if earlier is None:
                self._figures.found(episode.kind)
                log.warning("finding", kind=episode.kind, subject=episode.subject, detail=_told(episode))
            if episode.raised_at is not None and (earlier is None or earlier.raised_at is None):
                self._figures.raised(episode.kind)
                log.error("alert_raised", kind=episode.kind, subject=episode.subject, detail=_told(episode))
                self._bell.ring("alert_raised", episode)
            if episode.action and (earlier is None or earlier.action != episode.action):
                self._bell.ring(f"session_{episode.action}", episode)
            if episode.ended_at is not None:
                if episode.raised_at is not None:
                    log.warning("alert_cleared", kind=episode.kind, subject=episode.subject)
                    self._bell.ring("alert_cleared", episode)
                else:
                    log.info("finding_over", kind=episode.kind, subject=episode.subject)

    def _reached(self, fault: str | None) -> None:
        """Postgres answered, or did not: the one finding that Postgres cannot remember for us."""
        found = [Finding(kind="database_unreachable", subject="postgres", detail={"reason": fault})] if fault else []
        if fault:
            self._figures.failed()
        else:
            self._well_at = monotonic()
        judged = judge(self._unreachable, found, self._now(), self._hysteresis)
        # Numbered as if they were rows, so that what is new is told once.
        self._tell(self._unreachable, judged)
        self._unreachable = [msgspec.structs.replace(each, id=0) for each in judged if each.ended_at is None]
        own = [each.kind for each in self._unreachable if each.raised_at is not None]
        self._figures.alerts_are([*self._kinds, *own])


def _told(episode: Episode) -> str:
    """The detail in a line, without the text of queries."""
    return " ".join(f"{name}={value}" for name, value in episode.detail.items() if name != "query")
