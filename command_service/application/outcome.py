"""What became of a command: the event that answers it. Every answer, first or repeated, is a pure function of this."""

from datetime import datetime

import msgspec

from shared_kernel.event_log.types import RecordedEvent
from shared_kernel.events import Event, Metadata, decode, decode_metadata


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """`event` is CommandRefused where the rules turned the command down. `is_replay`: it was in the log before this request."""

    event: Event
    metadata: Metadata
    position: int
    recorded_at: datetime
    is_replay: bool = False

    @classmethod
    def of(cls, recorded: RecordedEvent) -> "Outcome":
        """The outcome that a recorded event stands for, given again."""
        return cls(
            event=decode(recorded.type, recorded.data),
            metadata=decode_metadata(recorded.metadata),
            position=recorded.position,
            recorded_at=recorded.recorded_at,
            is_replay=True,
        )
