"""The log's calls as SQL and flat arrays, shared by the fast client and the synchronous recorder.

Owns the text of the statements and the mapping between `Decision`s and the arrays of `daybook.append`; knows no driver.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from shared_kernel.event_log.types import Decision, RecordedEvent

APPEND: Final = (
    "select is_behind, base, head, recorded_at, failed_fences, tail_positions, tail_types, tail_data, tail_metadata,"
    " tail_recorded_at, failed_conditions"
    " from daybook.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)"
)
LOAD: Final = (
    "select is_behind, head, recorded_at, tail_positions, tail_types, tail_data, tail_metadata, tail_recorded_at,"
    " event_positions, event_types, event_data, event_metadata, event_recorded_at, event_tag_indexes,"
    " snapshot_tag_indexes, snapshot_positions, snapshot_states"
    " from daybook.load($1, $2, $3, $4, $5, $6, $7, $8)"
)
LOCK_HEADS: Final = "select ledger, head from daybook.lock_heads($1, $2)"
# Addresses sorted, so that two writers cannot wait for each other; an older snapshot never replaces a newer one.
WRITE_SNAPSHOTS: Final = (
    "insert into daybook.snapshots as s (ledger, incarnation, address, fold_version, position, state)"
    " select $1, $2, n.address, n.fold_version, n.position, n.state"
    " from unnest($3, $4, $5, $6) as n(address, fold_version, position, state)"
    " order by n.address, n.fold_version"
    " on conflict (ledger, address, fold_version, incarnation)"
    " do update set position = excluded.position, state = excluded.state where s.position < excluded.position"
)
NOTIFY: Final = "select pg_notify($1, $2)"
# What a session must hold before it may write, and what identifies its backend afterwards.
START_SESSION: Final = (
    "select pg_backend_pid()::text,"
    " (select a.backend_start::text from pg_stat_activity a where a.pid = pg_backend_pid()),"
    " (select i.incarnation::text from daybook.incarnation i),"
    " set_config('lock_timeout', $1, false), set_config('statement_timeout', $2, false),"
    " set_config('idle_in_transaction_session_timeout', $3, false),"
    " set_config('default_transaction_isolation', 'read committed', false),"
    # Asynchronous commit would make every answer a promise that a crash breaks; other values are the operator's choice.
    " set_config('synchronous_commit',"
    " case current_setting('synchronous_commit') when 'off' then 'on' else current_setting('synchronous_commit') end,"
    " false)"
)

ACCOUNT_TAG: Final = "account:"


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


def recorded_events(ledger: str, columns: Iterable[tuple[object, ...]]) -> list[RecordedEvent]:
    """Events from rows of (position, type, data, metadata, recorded_at)."""
    return [
        RecordedEvent(
            ledger=ledger,
            position=position,  # type: ignore[arg-type]
            type=type_,  # type: ignore[arg-type]
            data=data,  # type: ignore[arg-type]
            metadata=metadata,  # type: ignore[arg-type]
            recorded_at=recorded_at,  # type: ignore[arg-type]
        )
        for position, type_, data, metadata, recorded_at in columns
    ]
