"""What relay and projector need of the outside, in their own words, and the values that cross.

Adapters stand in `infrastructure`; they translate driver errors once, into the tree of `shared_kernel.errors`:
Unavailable (the neighbour is down), Contention (try again), Unwritable (this batch will never fit), Corruption (stop).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from projections.domain.projection import Key, Row
from shared_kernel.errors import Corruption, DaybookError
from shared_kernel.event_log.types import RecordedEvent


class Unwritable(DaybookError):
    """The read model cannot hold these rows, and no repetition changes that."""


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger's position goes from `previous` to `position`; `recorded_at` is that of the last event."""

    ledger: str
    previous: int
    position: int
    recorded_at: datetime


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Why a ledger stands still before `position`. Never holds what an event says.

    `is_final`: no repetition by this software changes it, so the ledger is parked; otherwise it waits and goes on by itself.
    """

    ledger: str
    position: int
    event_type: str
    error_class: str
    error: str
    trace_id: str | None
    is_final: bool


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger that stands still, as the read model remembers it.

    `is_parked`: it goes on when an operator says so. `asked_at`: when one last said so.
    """

    ledger: str
    position: int
    attempts: int
    is_parked: bool
    asked_at: datetime | None


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What one transaction writes: positions (sorted by ledger), rows by table (of a replaced one a subject once), new faults,
    and of the events passed those that were left out (ledger, position). `lines`: more rows, of tables that are only added to.
    """

    moves: Sequence[Move]
    rows: Mapping[str, Sequence[Row]]
    faults: Sequence[Fault]
    skipped: Sequence[tuple[str, int]] = ()
    lines: Mapping[str, bytes] = {}


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger's head beside a position that differs from it, in one look."""

    ledger: str
    head: int
    position: int


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One build of a projection. `state`: building, live or former."""

    projection: str
    number: int
    version: int
    schema_name: str
    state: str
    incarnation: str


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """An event that parked its ledger, as the read model remembers it."""

    projection: str
    generation: int
    incarnation: str
    ledger: str
    position: int
    error_class: str
    error: str
    attempts: int
    first_attempt_at: datetime
    last_attempt_at: datetime


class TooManyParked(DaybookError):
    """So many ledgers are parked that the fault is not theirs: the projection stops until an operator has seen to it."""


class Unusable(DaybookError):
    """The projection cannot be built: its SQL fails, or makes or changes what is not in its own schema."""


class ForeignGeneration(Corruption):
    """The read model was built from another incarnation of the log."""

    def __init__(self, generation: Generation, **fields: str | int) -> None:
        remedy = "the database was restored: build the read model anew with `python -m projections rebuild`"
        super().__init__(
            "projection_of_another_incarnation",
            projection=generation.projection,
            generation=generation.number,
            **fields,
            detail=remedy,
        )


class Log(Protocol):
    """The event log, read set-wise."""

    def incarnation(self) -> str:
        """The log's incarnation as text."""

    def read(self, after: Mapping[str, int], *, events_max: int, bytes_max: int) -> list[RecordedEvent]:
        """Events after the given positions, in order within each ledger; at least one where there is any."""


class ReadModel(Protocol):
    """One generation of one projection."""

    def positions(self, ledgers: Sequence[str] | None = None) -> dict[str, int]:
        """Positions of these ledgers (all, if none are named). Corruption where one is of another incarnation."""

    def was_repaired(self) -> bool:
        """True once after `positions` found that rows were repaired since it looked before: no row in memory can be trusted."""

    def last_rows(self, keys: Sequence[Key]) -> dict[Key, Row]:
        """The last row, as far as its table keeps it, of those keys that have one."""

    def lines(self, rows: Sequence[Row]) -> bytes:
        """These rows of a table as they will be written, so that they need not be kept; put one after the other, those of several."""

    def write(self, batch: Batch) -> bool:
        """Writes all of it or nothing; a ledger that passes its fault is rid of it. Waiting readers hear of what they can see now.

        False: a position was not the previous one, or its ledger is parked, so somebody else was there first.
        """

    def standing(self) -> list[Standing]:
        """The ledgers that stand still."""

    def release(self, ledgers: Sequence[str]) -> None:
        """Those of them that wait before an event that is not there yet wait no longer."""

    def skips(self) -> Mapping[str, Collection[int]]:
        """The positions, by ledger, that this version leaves out."""

    def lags(self) -> list[Lag]:
        """Every ledger whose position is not its head."""

    def lag_s(self, lags: Sequence[Lag]) -> float:
        """The age of the oldest event that one of these ledgers does not have yet, in seconds."""


class Source(Protocol):
    """Where live events come from: in order if all is well, with gaps and repeats if not."""

    def expect(self, incarnation: str) -> None:
        """From now on only events of this incarnation are let through."""

    def poll(self, wait_s: float) -> list[RecordedEvent]:
        """What has arrived; waits for the first, never for more."""

    def was_assigned(self) -> bool:
        """True once after partitions were given to this process."""

    def commit(self) -> None:
        """Marks what was polled as done: a hint for the next start, nothing more."""

    def close(self, *, is_done: bool) -> None:
        """Leaves the group, and commits before if what was polled is done."""


class Generations(Protocol):
    """Which builds of a projection there are, and which one is read."""

    def prepare(self) -> Generation:
        """The generation that this version of the code feeds; made if missing. ForeignGeneration: its log was another.

        Unusable: it cannot be made.
        """

    def lock(self) -> bool:
        """True if this process alone may build from now on, until it ends or loses its connection."""

    def swap(self, generation: Generation) -> bool:
        """Readers see this generation. False: it is behind the live one somewhere, and nothing changed."""

    def beside(self) -> list[Generation]:
        """What is fed beside the one that `prepare` gives: whole generations of the same version and log."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is to become of a projection. `generations`: a text that differs as soon as one is made, swapped, or dropped."""

    is_paused: bool = False
    generations: str = ""


class Controls(Protocol):
    """What operators want, as this process knows it."""

    def wanted(self, projection: str) -> Wanted | None:
        """None: that is not known yet."""

    def wait(self, wait_s: float) -> None:
        """Returns when something may have changed, or after the time."""


class DeadLetters(Protocol):
    """The dead letters of one projection that are not in the topic yet."""

    def unpublished(self, letters_max: int) -> list[DeadLetter]:
        """The oldest, for the one process that sees to them now; none for any other."""

    def published(self, letters: Sequence[DeadLetter]) -> None:
        """These are in the topic."""


class DeadLetterTopic(Protocol):
    """Kafka, for dead letters. Nothing here ever waits."""

    def hand_over(self, letter: DeadLetter, event: RecordedEvent) -> bool:
        """The letter is under way, with the event as the log has it. False: the queue is full, or there is no Kafka."""

    def delivered(self) -> list[DeadLetter]:
        """What has arrived since the last call."""

    def undelivered(self) -> list[DeadLetter]:
        """What could not be delivered since the last call."""

    def close(self) -> None:
        """Drops what is under way: the table has it."""


class Relayed(Protocol):
    """What the relay remembers. Every write is fenced by the epoch of the lease."""

    def acquire(self, owner: str, lease_ms: int) -> int | None:
        """A new epoch if the lease was free or over, by the database's clock."""

    def renew(self, owner: str, epoch: int, lease_ms: int) -> bool:
        """False: another relay has taken over."""

    def release(self, owner: str, epoch: int) -> None:
        """The lease is over at once, if it was still ours."""

    def positions(self, epoch: int, incarnation: str) -> dict[str, int]:
        """Published positions. Those of another incarnation begin again at 0. Corruption: one is beyond its head."""

    def lags(self) -> list[Lag]:
        """Every ledger that has unpublished events."""

    def advance(self, epoch: int, incarnation: str, moves: Sequence[Move]) -> bool:
        """Writes all positions or none. False: the epoch or a previous position is another."""


class Wakeups(Protocol):
    """Hints that ledgers have grown."""

    def wait(self, wait_s: float) -> set[str]:
        """Ledgers named since the last call; waits for the first."""


class PublishFailed(DaybookError):
    """Kafka did not take all of a batch, or does not answer."""


class Publisher(Protocol):
    """Kafka, for the relay."""

    def prepare(self) -> None:
        """The topic exists and a fresh producer stands ready. PublishFailed where Kafka cannot be reached, or is left alone."""

    def probe(self) -> None:
        """Where Kafka was left alone for long enough, it was asked whether it is back."""

    def publish(self, events: Sequence[RecordedEvent], *, incarnation: str, meanwhile: Callable[[], None]) -> None:
        """Every event is stored, in order. PublishFailed otherwise. `meanwhile` is called while it waits, and may raise."""

    def close(self) -> None:
        """Drops what is under way."""
