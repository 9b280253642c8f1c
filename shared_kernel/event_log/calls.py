"""The log's calls as SQL and flat arrays, shared by the fast client and the synchronous recorder.

Owns the statements (calls.sql) and the mapping between `Decision`s and the arrays of `daybook.append`; knows no driver.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from shared_kernel.event_log.statements import load_statements
from shared_kernel.event_log.types import Decision, NewEvent

_STATEMENTS: Final = load_statements("shared_kernel.event_log", "calls.sql")
APPEND: Final = _STATEMENTS["append"]
LOAD: Final = _STATEMENTS["load"]
LOCK_HEADS: Final = _STATEMENTS["lock_heads"]
PAGE: Final = _STATEMENTS["page"]
WRITE_SNAPSHOTS: Final = _STATEMENTS["write_snapshots"]
NOTIFY: Final = _STATEMENTS["notify"]
START_SESSION: Final = _STATEMENTS["start_session"]
TERMINATE_BACKEND: Final = _STATEMENTS["terminate_backend"]
FIND_BACKEND: Final = _STATEMENTS["find_backend"]
CREATE_HEAD: Final = _STATEMENTS["create_head"]
READ_INCARNATION: Final = _STATEMENTS["read_incarnation"]
READ_MATCHING: Final = _STATEMENTS["read_matching"]
READ_TAGS: Final = _STATEMENTS["read_tags"]

ACCOUNT_TAG: Final = "account:"
APPENDED_CHANNEL: Final = "daybook_appended"
"""NOTIFY channel; the payload is a ledger that has new events."""


class FlatDecisions(msgspec.Struct, frozen=True):
    """Decisions as the parallel arrays of `daybook.append`; `tag_events` counts events from 1.

    `fence_starts` says whose fence each one is: how many stand before the first of each decision.
    """

    fence_starts: list[int]
    fence_groups: list[int]
    fence_tags: list[str]
    fence_afters: list[int]
    event_groups: list[int]
    event_types: list[str]
    event_data: list[str]
    event_metadata: list[str]
    tag_events: list[int]
    tags: list[str]

    def failed(self, ordinals: Iterable[int]) -> list[tuple[int, int]]:
        """Each failed fence, counted from 1 over the whole call, as (decision index, fence index), sorted."""
        found = []
        for ordinal in sorted(ordinals):
            index = bisect_right(self.fence_starts, ordinal - 1) - 1  # of those without a fence, that behind them
            found.append((index, ordinal - 1 - self.fence_starts[index]))
        return found


def flatten(decisions: Sequence[Decision]) -> FlatDecisions:
    """The decisions in order; a tag that an event bears twice counts once."""
    # Lists of our own until the end: this runs for every fence and tag of every batch.
    starts: list[int] = []
    groups: list[int] = []
    fence_tags: list[str] = []
    afters: list[int] = []
    events: list[NewEvent] = []
    event_groups: list[int] = []
    tag_events: list[int] = []
    tags: list[str] = []
    for decision in decisions:
        starts.append(len(fence_tags))
        groups += [decision.group] * len(decision.fences)
        fence_tags += [fence.tag for fence in decision.fences]
        afters += [fence.after for fence in decision.fences]
        for event in decision.events:
            events.append(event)
            event_groups.append(decision.group)
            borne = dict.fromkeys(event.tags)
            tags += borne
            tag_events += [len(events)] * len(borne)
    return FlatDecisions(
        fence_starts=starts,
        fence_groups=groups,
        fence_tags=fence_tags,
        fence_afters=afters,
        event_groups=event_groups,
        event_types=[event.type for event in events],
        event_data=[event.data for event in events],
        event_metadata=[event.metadata for event in events],
        tag_events=tag_events,
        tags=tags,
    )
