"""From findings to alerts, with hysteresis: told after some looks in a row, ended after some without it. Pure.

An episode is one thing that was wrong, from the first look that saw it until it was gone. Its row in `monitor.findings` is all
that is remembered, so any monitor goes on where another left off.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from daybook.monitor.domain.findings import AT_ONCE, Detail, Finding, Kind

Action = Literal["", "cancelled", "terminated", "failed"]


class Episode(msgspec.Struct, frozen=True, kw_only=True):
    """`looks` in a row that saw it, `missed` in a row that did not. `id` None: not written yet.

    `raised_at`: since when it is an alert. `action`: what was done to the session at its root.
    """

    id: int | None = None
    kind: Kind
    subject: str
    first_seen_at: datetime
    last_seen_at: datetime
    looks: int = 1
    missed: int = 0
    raised_at: datetime | None = None
    ended_at: datetime | None = None
    action: Action = ""
    detail: Detail


class Hysteresis(msgspec.Struct, frozen=True, kw_only=True):
    """After how many looks in a row an alert is raised, and after how many without it ended."""

    raise_looks: int
    clear_looks: int


def judge(
    known: Sequence[Episode],
    found: Sequence[Finding],
    at: datetime,
    pace: Hysteresis,
    was_looked_at: Callable[[Kind, str], bool] = lambda kind, subject: True,
) -> list[Episode]:
    """Every episode that is open or has just ended, as of this look: those in `known`, which are open, and new ones.

    `was_looked_at`: of kind and subject; where that is not so, the episode stays as it was.
    """
    rest = {(finding.kind, finding.subject): finding for finding in found}
    judged = []
    for episode in known:
        finding = rest.pop((episode.kind, episode.subject), None)
        is_news = finding is not None or was_looked_at(episode.kind, episode.subject)
        judged.append(_seen(episode, finding, at, pace) if is_news else episode)
    for finding in rest.values():
        fresh = Episode(
            kind=finding.kind, subject=finding.subject, first_seen_at=at, last_seen_at=at, detail=finding.detail
        )
        judged.append(_raised(fresh, at, pace))
    return judged


def _seen(episode: Episode, finding: Finding | None, at: datetime, pace: Hysteresis) -> Episode:
    if finding is None:
        missed = episode.missed + 1
        return msgspec.structs.replace(episode, missed=missed, ended_at=at if missed >= pace.clear_looks else None)
    looks = 1 if episode.missed else episode.looks + 1
    seen = msgspec.structs.replace(episode, looks=looks, missed=0, last_seen_at=at, detail=finding.detail)
    return _raised(seen, at, pace)


def _raised(episode: Episode, at: datetime, pace: Hysteresis) -> Episode:
    is_due = episode.looks >= pace.raise_looks or episode.kind in AT_ONCE
    return msgspec.structs.replace(episode, raised_at=at) if is_due and episode.raised_at is None else episode
