"""A batch of commands decided in memory: from tickets and books to the decisions that one append carries.

Pure. Decides in arrival order, each command seeing what the earlier ones did, and groups the commands of which the later
read what the earlier wrote: such a group stands or falls together. Does not know the log, the locks or the clients.
"""

from asyncio import Future
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from command_service.application.outcome import Outcome
from command_service.domain.asking import Context
from command_service.domain.books import Books, Need, NotLoaded, NotSettled
from command_service.domain.commands import TYPE_OF_COMMAND, Command, needs_lock
from command_service.domain.transactions import accounts_named, plain_fields
from shared_kernel import events, tags
from shared_kernel.errors import DaybookError, Refusal, Rejection
from shared_kernel.event_log.types import Decision, Fence, NewEvent
from shared_kernel.events import CommandRefused, Event, Metadata

TOLD_MAX = 5  # chosen: commands of a batch that a line of the log names; the others it counts

type_name = events.TYPE_NAMES.__getitem__
Decide = Callable[[Books, Command, Context], list[Event]]


class Ticket:
    """One command on its way: what to decide, who waits for it, and what happened to it so far."""

    __slots__ = (
        "aside_since",
        "command",
        "conflicts",
        "context",
        "deadline",
        "decide",
        "faults",
        "followers",
        "future",
        "held_up_by",
        "is_answered",
        "is_doubtful",
        "is_queued",
        "key_tag",
        "needs_lock",
    )

    def __init__(
        self, decide: Decide, command: Command, context: Context, *, future: "Future[Outcome]", deadline: float
    ) -> None:
        self.decide = decide
        self.command = command
        self.context = context
        self.future = future
        self.deadline = deadline
        self.key_tag = tags.key_tag(context.actor, context.key, system=context.is_system)
        self.needs_lock = needs_lock(command)  # to be decided in a batch that holds the head's lock
        self.aside_since: float | None = None  # since when it waits for locks of its accounts
        self.conflicts = 0  # how often it fell with a failed fence
        self.faults = 0  # how often the log failed under it
        self.held_up_by: DaybookError | None = None  # what the log said last, where it failed
        self.is_answered = False  # also if nobody listens any more: a caller who leaves does not take the command along
        self.is_queued = False  # it waits in its ledger's queue, and must not stand there twice
        self.is_doubtful = False  # an append of it was lost, and nobody saw the old backend end
        self.followers: list[Ticket] = []

    def identity(self) -> dict[str, str]:
        """What the log calls it: its type, its idempotency key, and its trace, or what stands for that where the client gave none."""
        context = self.context
        trace_id = context.correlation_id if context.trace is None else context.trace[3:35]  # W3C Trace Context §3.2
        return {"command": type(self.command).__name__, "key": context.key, "trace_id": trace_id}


def some_of(tickets: Sequence[Ticket]) -> dict[str, int | list[str]]:
    """What the log calls many: the first few by key and trace, and how many there are."""
    named = [ticket.identity() for ticket in tickets[:TOLD_MAX]]
    return {
        "commands": len(tickets),
        "keys": [each["key"] for each in named],
        "trace_ids": [each["trace_id"] for each in named],
    }


class Verdict(msgspec.Struct, kw_only=True, eq=False):
    """What was decided on one ticket, with the conditions under which it holds.

    `error` is set where nothing is to be recorded but the caller still has to be told, once the fences (the key among them,
    always the first) have been judged. `group` numbers what stands or falls together. `claims`: tags that must be new, each with
    what it means if one is not (code, field, value).
    """

    ticket: Ticket
    decided: Sequence[Event]
    recorded: Sequence[NewEvent]
    metadata: Metadata
    fences: Sequence[Fence]
    error: DaybookError | None = None
    group: int = 0
    claims: Mapping[str, tuple[str, str, str]] = {}

    def taken(self, failed: Collection[str]) -> Rejection | None:
        """What the caller hears if these fences of the verdict failed; None where it has to be decided again.

        An id or a reference is taken (409) only where nothing else failed: what others changed may lead to another answer, and
        every other guard comes before uniqueness.
        """
        if any(tag not in self.claims for tag in failed):
            return None
        for tag, (code, name, value) in self.claims.items():
            if tag in failed:
                return Rejection(code, **{name: value})
        return None


class DecidedBatch(msgspec.Struct, kw_only=True, eq=False):
    """`books` holds what the verdicts make of the state, if all of them stand.

    `deferred` could not be decided beside the others and comes first in the next batch; `missing` names what to load for it.
    `faults`: exceptions that no decision should raise; those tickets are answered `internal_error`.
    """

    books: Books
    verdicts: list[Verdict]
    deferred: list[Ticket]
    missing: set[Need]
    faults: list[Exception]

    def decisions(self) -> list[Decision]:
        """The same for the log, in the same order."""
        return [
            Decision(group=verdict.group, events=verdict.recorded, fences=verdict.fences) for verdict in self.verdicts
        ]


def decide_batch(books: Books, tickets: Sequence[Ticket], *, seen: int, is_locked: bool = True) -> DecidedBatch:
    """Decides the tickets in order on books that are complete as of position `seen`.

    `is_locked`: the caller holds the head's lock and `seen` is the head. Where it is false, tickets with `needs_lock` are deferred
    untouched: give them to a batch under the lock, alone or with others. Whatever else is deferred can be decided in the next
    batch: it hangs on what becomes of this one, and the first ticket of a batch hangs on nothing.
    """
    books.as_of(seen)
    batch = DecidedBatch(books=books, verdicts=[], deferred=[], missing=set(), faults=[])
    groups = _Groups()
    written: dict[str, list[int]] = {}
    for ticket in tickets:
        if ticket.needs_lock and not is_locked:
            batch.deferred.append(ticket)
            continue
        books.begin()
        try:
            decided = ticket.decide(books, ticket.command, ticket.context)
        except NotLoaded as absent:
            batch.missing |= absent.needs
            batch.deferred.append(ticket)
            continue
        except NotSettled:
            batch.deferred.append(ticket)
            continue
        except Refusal as refusal:
            depends = [index for resource in books.reads for index in written.get(resource, ())]
            verdict = _refused(books, ticket, refusal, seen=seen, on_own_state=not depends)
            books.pass_over(len(verdict.recorded))
        except Rejection as rejection:
            depends = []
            if not written.keys().isdisjoint(
                books.reads
            ):  # it followed from something that may yet fall: ask again when that has settled
                batch.deferred.append(ticket)
                continue
            verdict = _unrecorded(ticket, rejection, _confirming(books, ticket, seen=seen, on_own_state=True))
        except Exception as fault:  # a bug in one decision must not take its neighbours down
            batch.faults.append(fault)
            depends = []
            verdict = _unrecorded(ticket, DaybookError("internal_error"), [])
        else:
            if not written.keys().isdisjoint(books.unique):  # taken within this batch, where no fence looks
                batch.deferred.append(ticket)
                continue
            depends = [index for resource in books.reads for index in written.get(resource, ())]
            verdict = _accepted(books, ticket, decided, seen=seen)
            for resource in books.apply(decided):
                written.setdefault(resource, []).append(len(batch.verdicts))
        groups.add(depends)
        batch.verdicts.append(verdict)
    for index, verdict in enumerate(batch.verdicts):
        verdict.group = groups.root(index)
    return batch


def _accepted(books: Books, ticket: Ticket, decided: list[Event], *, seen: int) -> Verdict:
    fences = [Fence(tag=ticket.key_tag, after=0)]
    fences += [Fence(tag=tag, after=0) for tag in books.unique]
    fences += [Fence(tag=tag, after=seen) for tag in books.fresh]
    answer = _metadata(ticket)
    recorded = []
    if len(decided) > 1:  # openings by first use: caused by the transaction that follows
        caused = _metadata(ticket, caused_by=ticket.key_tag)
        recorded = [_new_event(event, caused) for event in decided[:-1]]
    recorded.append(_new_event(decided[-1], answer))
    return Verdict(
        ticket=ticket, decided=decided, recorded=recorded, metadata=answer, fences=fences, claims=books.unique
    )


def _refused(books: Books, ticket: Ticket, refusal: Refusal, *, seen: int, on_own_state: bool) -> Verdict:
    """A refusal stands if nothing touched what it looked at; decided again once, it stands as of its position.

    Without `judged_at` it holds on the state just before its own position: nothing foreign came between (the fence), and what
    this batch did before it is in its group.
    """
    fences = _confirming(books, ticket, seen=seen, on_own_state=on_own_state)
    terms = books.terms_now
    if terms is None or not terms.opened.records_refusals:
        return _unrecorded(ticket, refusal, fences)
    event = CommandRefused(
        command=TYPE_OF_COMMAND[type(ticket.command)],
        code=refusal.code,
        fields=plain_fields(refusal),
        asked=msgspec.Raw(ticket.context.asked),
        accounts=accounts_named(refusal),
        judged_at=None if fences else seen,
    )
    metadata = _metadata(ticket)
    return Verdict(
        ticket=ticket,
        decided=[event],
        recorded=[_new_event(event, metadata)],
        metadata=metadata,
        fences=[Fence(tag=ticket.key_tag, after=0), *fences],
    )


def _confirming(books: Books, ticket: Ticket, *, seen: int, on_own_state: bool) -> list[Fence]:
    """The fences of an answer other than yes: everything it looked at, and all about the account whose balance it was judged on.

    None where the ticket fell before and nothing of this batch came into it: the state is as fresh as the last conflict.
    """
    if ticket.conflicts > 0 and on_own_state:
        return []
    fences = [Fence(tag=tag, after=seen) for tag in books.fresh]
    if books.judged is not None and (tag := tags.account_tag(books.judged)) not in books.fresh:
        fences.append(Fence(tag=tag, after=seen))
    return fences


def _unrecorded(ticket: Ticket, error: DaybookError, fences: list[Fence]) -> Verdict:
    """Nothing to write, but the key is judged first: a repeat gets its first answer, whatever the rules say today."""
    key = Fence(tag=ticket.key_tag, after=0)
    metadata = _metadata(ticket)
    return Verdict(ticket=ticket, decided=(), recorded=(), metadata=metadata, fences=[key, *fences], error=error)


def _metadata(ticket: Ticket, *, caused_by: str | None = None) -> Metadata:
    """Who asked. The one event that answers the command carries key and fingerprint; others say what caused them."""
    context = ticket.context
    answers = caused_by is None
    return Metadata(
        actor=context.actor,
        correlation_id=context.correlation_id,
        causation_id=caused_by,
        trace=context.trace,
        key=context.key if answers else None,
        fingerprint=context.fingerprint if answers else None,
        system=context.is_system,
    )


def _new_event(event: Event, metadata: Metadata) -> NewEvent:
    return NewEvent(
        type=type_name(type(event)),
        data=events.encode(event),
        metadata=events.encode(metadata),
        tags=tags.of(event, metadata),
    )


class _Groups:
    """Union-find over the verdicts of a batch; the root of a group is its earliest member."""

    def __init__(self) -> None:
        self._parent: list[int] = []

    def add(self, depends: Sequence[int]) -> None:
        """The next verdict, joined with those it depends on."""
        own = len(self._parent)
        self._parent.append(own)
        for other in depends:
            low, high = sorted((self.root(own), self.root(other)))
            self._parent[high] = low

    def root(self, index: int) -> int:
        """The number of the group."""
        while self._parent[index] != index:
            self._parent[index] = index = self._parent[self._parent[index]]
        return index
