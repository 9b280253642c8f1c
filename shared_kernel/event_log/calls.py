"""The log's calls as SQL and flat arrays, shared by the fast client and the synchronous recorder.

Owns the statements (calls.sql) and the mapping between `Decision`s and the arrays of `daybook.append`; knows no driver.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from shared_kernel.event_log.statements import load_statements
from shared_kernel.event_log.types import Decision

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

    `fences` says whose fence each one is: (decision index, fence index).
    """

    fences: list[tuple[int, int]]
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
        return sorted(self.fences[ordinal - 1] for ordinal in ordinals)


def flatten(decisions: Sequence[Decision]) -> FlatDecisions:
    """The decisions in order; a tag that an event bears twice counts once."""
    flat = FlatDecisions([], [], [], [], [], [], [], [], [], [])
    for index, decision in enumerate(decisions):
        for fence_index, fence in enumerate(decision.fences):
            flat.fences.append((index, fence_index))
            flat.fence_groups.append(decision.group)
            flat.fence_tags.append(fence.tag)
            flat.fence_afters.append(fence.after)
        for event in decision.events:
            flat.event_groups.append(decision.group)
            flat.event_types.append(event.type)
            flat.event_data.append(event.data)
            flat.event_metadata.append(event.metadata)
            tags = dict.fromkeys(event.tags)
            flat.tags.extend(tags)
            flat.tag_events.extend([len(flat.event_types)] * len(tags))
    return flat
