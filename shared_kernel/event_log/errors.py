"""How the log says no, and what that means for the caller. Driver errors are translated here, once.

The question that matters after a failure is "was it applied?": `OutcomeUnknown` alone cannot tell: it means that the log must be asked (by key) before anybody is told anything.
"""

from typing import Final

from shared_kernel.errors import Contention, Corruption, DaybookError, Rejection, SaysNothing, Unavailable
from shared_kernel.sqlstates import is_rolled_back

# SQLSTATEs raised by our own functions (migrations/0001_event_log.sql).
INCARNATION_CHANGED: Final = "DB001"
LEDGER_NOT_FOUND: Final = "DB002"
POSITION_BEYOND_HEAD: Final = "DB003"

_SESSION_ENDED: Final = "57P01"  # admin_shutdown: pg_terminate_backend, or a server that stops

_REASONS: Final = {
    "25P02": "statement_failed",
    "25P03": "idle_timeout",
    "40001": "serialization_failure",
    "40P01": "deadlock",
    "55P03": "lock_timeout",
    "57014": "statement_timeout",
}


class LedgerNotFound(Rejection):
    """The log holds no such ledger."""

    def __init__(self) -> None:
        super().__init__("ledger_not_found")


class IncarnationChanged(Corruption):
    """The database was restored since this process learned its incarnation: stop, and start afresh."""

    def __init__(self) -> None:
        super().__init__("incarnation_changed")


class PositionBeyondHead(Corruption):
    """Somebody remembers a position that the log does not have: restored without `daybook restored`?"""

    def __init__(self) -> None:
        super().__init__("position_beyond_head")


class RolledBack(Contention):
    """The server reported an error after which the same call may be repeated blindly: nothing was applied. `reason` names it."""

    def __init__(self, sqlstate: str) -> None:
        reason = _REASONS.get(sqlstate, "out_of_resources")
        super().__init__("rolled_back", retry_after_ms=20, reason=reason, sqlstate=sqlstate)


class OutcomeUnknown(Unavailable):
    """The connection ended, or the commit was not confirmed, before the answer: the write may have been applied.

    `is_settled`: the backend is seen gone, so what the log does not hold now, it will never hold.
    """

    def __init__(self, reason: str) -> None:
        super().__init__("outcome_unknown", reason=reason)
        self.is_settled = False


class LogUnavailable(Unavailable):
    """The log cannot be reached; nothing was written by this call."""

    def __init__(self, reason: str) -> None:
        super().__init__("event_log_unavailable", dependency="postgres", reason=reason)


class EndedBefore(LogUnavailable, SaysNothing):
    """The server ended this session. Nothing was written by this call; how the server is, the next attempt shows."""


class EndedMeanwhile(OutcomeUnknown, SaysNothing):
    """The server ended this session while it wrote; how the server is, the hunt for its backend shows."""


class LogFault(Corruption):
    """The server refused a statement for a reason that no repetition cures (a missing right, a wrong schema).

    Nothing was applied.
    """

    def __init__(self, sqlstate: str) -> None:
        super().__init__("event_log_fault", sqlstate=sqlstate)


def lost(reason: str, *, is_write: bool) -> LogUnavailable | OutcomeUnknown:
    """The error for a request whose connection is no more. `reason`: the SQLSTATE that the server gave, or a word of ours."""
    if reason == _SESSION_ENDED:
        return EndedMeanwhile(reason) if is_write else EndedBefore(reason)
    return OutcomeUnknown(reason) if is_write else LogUnavailable(reason)


def from_sqlstate(sqlstate: str) -> DaybookError:
    """The error for an ERROR that the server reported on a connection that then reached its sync point."""
    if sqlstate == LEDGER_NOT_FOUND:
        return LedgerNotFound()
    if sqlstate == INCARNATION_CHANGED:
        return IncarnationChanged()
    if sqlstate == POSITION_BEYOND_HEAD:
        return PositionBeyondHead()
    if is_rolled_back(sqlstate):
        return RolledBack(sqlstate)
    if sqlstate in {"25006", "57P03"}:  # a read-only server: a standby, or a primary that was demoted
        return LogUnavailable("read_only")
    return LogFault(sqlstate)
