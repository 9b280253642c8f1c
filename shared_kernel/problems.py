"""The stable codes of every error, with their HTTP status and title: the one place that knows HTTP numbers.

RFC 9457 problem documents are made here from `shared_kernel.errors`. A code, once released, keeps its meaning.
"""

from typing import NamedTuple

from shared_kernel.errors import Contention, Corruption, DaybookError, Field, Unavailable

TYPE_PREFIX = "urn:daybook:problem:"  # a name, not an address: nothing is fetched


class Problem(NamedTuple):
    """What a code means over HTTP."""

    status: int
    title: str


PROBLEMS: dict[str, Problem] = {
    # 400: the request is malformed; `path` names the JSON field or the parameter
    "invalid_request": Problem(400, "The request is not well formed"),
    "unbalanced": Problem(400, "Debits and credits differ for an asset"),
    "key_missing": Problem(400, "A command of the batch has no idempotency key"),
    "invalid_cursor": Problem(400, "The cursor is not one of this list"),
    # 401, 403, 404
    "unauthenticated": Problem(401, "A valid bearer token is needed"),
    "forbidden": Problem(403, "The token's roles do not allow this"),
    "not_found": Problem(404, "There is nothing here"),
    "ledger_not_found": Problem(404, "There is no such ledger"),
    "account_not_found": Problem(404, "There is no such account"),
    "transaction_not_found": Problem(404, "There is no such transaction"),
    "event_not_found": Problem(404, "There is no such event"),
    "command_not_found": Problem(404, "No command with this key is in the log yet"),
    "projection_not_found": Problem(404, "There is no such projection"),
    "generation_not_found": Problem(404, "The projection has no such generation"),
    "job_not_found": Problem(404, "The projection has no such job"),
    "method_not_allowed": Problem(405, "This method is not offered here"),
    "request_timeout": Problem(408, "The request took too long to arrive"),
    # 409: what it asks for is taken
    "idempotency_key_reused": Problem(409, "The key was used for another command"),
    "ledger_exists": Problem(409, "The ledger is open already"),
    "account_exists": Problem(409, "The account is open already"),
    "transaction_exists": Problem(409, "The transaction id is taken"),
    "reference_taken": Problem(409, "The reference is taken"),
    "already_settled": Problem(409, "The pending transaction has ended already"),
    "already_reversed": Problem(409, "The transaction is reversed already, in full"),
    "transaction_not_pending": Problem(409, "The transaction is not a pending one"),
    "transaction_not_posted": Problem(409, "Nothing of the transaction is posted, so nothing can be reversed"),
    "transaction_not_scheduled": Problem(409, "The transaction is not waiting for its time"),
    "not_due": Problem(409, "Its time has not come"),
    "batch_partly_known": Problem(
        409, "Some commands of the atomic batch were sent before under the same keys, others not"
    ),
    "conflict": Problem(409, "Others changed the same accounts too often"),
    "position_beyond_head": Problem(409, "The position is beyond the head of the log"),
    "ledger_not_parked": Problem(409, "The read model does not stand still there for this ledger"),
    "ledger_stands_still": Problem(409, "The ledger cannot be folded: an event of it cannot be applied"),
    "no_rows_by_account": Problem(409, "The projection keeps no rows by account: repair the ledger"),
    "rebuild_running": Problem(409, "The projection is being rebuilt already"),
    "not_verified": Problem(409, "The generation has not passed a comparison with the live one"),
    "generation_behind": Problem(409, "The generation is behind the live one, and readers would go back"),
    "generation_building": Problem(409, "The generation is not whole yet"),
    "generation_live": Problem(409, "The generation is the one that readers see"),
    "nothing_to_roll_back": Problem(409, "No generation was live before, or it was dropped"),
    "log_restored": Problem(409, "The database was restored: projectors build the read model anew by themselves"),
    # 413, 415
    "body_too_large": Problem(413, "The body is too large"),
    "unsupported_media_type": Problem(415, "Only application/json is taken"),
    # 422: refusals, on record
    "account_not_open": Problem(422, "The account is not open"),
    "insufficient_funds": Problem(422, "The available balance would pass its minimum"),
    "limit_exceeded": Problem(422, "The balance would pass its maximum"),
    "account_frozen": Problem(422, "The account is frozen"),
    "account_closed": Problem(422, "The account is closed"),
    "account_not_frozen": Problem(422, "The account is not frozen"),
    "account_not_closed": Problem(422, "The account is not closed"),
    "balance_not_zero": Problem(422, "An account closes only with zero balances"),
    "holds_pending": Problem(422, "An account closes only without holds"),
    "ledger_archived": Problem(422, "The ledger is archived: it takes no commands until it is reopened"),
    "ledger_not_archived": Problem(422, "The ledger is not archived"),
    "condition_failed": Problem(422, "A condition of the command does not hold"),
    "expires_at_passed": Problem(422, "The hold would end before it begins"),
    "hold_exceeded": Problem(422, "More would be posted than is held"),
    "reversal_exceeds": Problem(422, "More would be reversed than was posted"),
    "scheduled_in_the_past": Problem(422, "A scheduled transaction needs an effective time that is still to come"),
    "metadata_too_large": Problem(422, "There would be too many metadata keys"),
    "effective_at_too_late": Problem(422, "The effective time is too far in the future"),
    # 429, 5xx
    "rate_limited": Problem(429, "Too many requests"),
    "internal_error": Problem(500, "Something went wrong on our side"),
    "corruption": Problem(500, "A safeguard stopped this ledger; the operator has been told"),
    "deadline_passed": Problem(503, "The command waited too long and was not applied"),
    "overloaded": Problem(503, "Too much is waiting already"),
    "dependency_unavailable": Problem(503, "A service this one needs does not answer"),
    "outcome_unknown": Problem(503, "It is not known yet whether the command was applied: repeat it with the same key"),
    "read_model_behind": Problem(503, "The read model has not reached the position yet"),
    "read_model_parked": Problem(503, "The read model stands still for this ledger"),
    "unknown_event_type": Problem(503, "This ledger has events of a newer release, which this process cannot read"),
    "shutting_down": Problem(503, "This process is stopping"),
}


def problem(error: DaybookError, trace_id: str | None = None) -> tuple[int, dict[str, Field]]:
    """The HTTP status and the problem document of an error. Unknown codes are ours to fix: 500."""
    known = PROBLEMS.get(error.code)
    if known is None:
        named = {"dependency": error.fields["dependency"]} if "dependency" in error.fields else {}
        return problem(DaybookError(_public_code(error), **named), trace_id)
    document: dict[str, Field] = {
        "type": TYPE_PREFIX + error.code,
        "title": known.title,
        "status": known.status,
        "code": error.code,
        **error.fields,
    }
    if trace_id is not None:
        document["trace_id"] = trace_id
    return known.status, document


def _public_code(error: DaybookError) -> str:
    """What the outside hears of a fault whose name is our own affair."""
    match error:
        case Corruption():
            return "corruption"
        case Contention() | Unavailable():
            return "dependency_unavailable"
    return "internal_error"


def retry_after_ms(error: DaybookError) -> int | None:
    """How long the caller should wait before asking again, where asking again makes sense."""
    if isinstance(error, Contention | Unavailable):
        return error.retry_after_ms
    return None
