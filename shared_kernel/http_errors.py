"""Every error that leaves over HTTP as an RFC 9457 problem document; the numbers themselves are in `problems.py`.

Refusals are the caller's business and are not logged as errors; what is ours is logged and told as `internal_error`.
"""

import math
import re
from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from shared_kernel.errors import Corruption, DaybookError, Field, Rejection, Unavailable
from shared_kernel.http_context import context_of
from shared_kernel.json_text import invalid, rejection_of
from shared_kernel.problems import problem, retry_after_ms

PROBLEM_TYPE = "application/problem+json"

_CODES = {
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
    415: "unsupported_media_type",
    429: "rate_limited",
    503: "overloaded",
}

_MISSING = re.compile(
    r"Missing required query parameter '([^']*)'"
)  # Litestar's words; a test of every such parameter holds them

log = structlog.get_logger(__name__)


class ProblemAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A problem document with all that goes round it."""

    status: int
    headers: dict[str, str]
    document: dict[str, Field]


def problem_answer(error: DaybookError, trace_id: str | None) -> ProblemAnswer:
    """The answer for an error: with `Retry-After` where asking again makes sense, `WWW-Authenticate` at 401."""
    status, document = problem(error, trace_id)
    headers: dict[str, str] = {}
    wait_ms = retry_after_ms(error)
    if wait_ms is not None:
        headers["retry-after"] = str(max(1, math.ceil(wait_ms / 1000)))
    if status == 401:
        headers["www-authenticate"] = 'Bearer realm="daybook", error="invalid_token"'  # RFC 6750 §3
    return ProblemAnswer(status=status, headers=headers, document=document)


def log_error(error: Exception) -> None:
    """A line for what an operator must see; none for what is the caller's business."""
    if isinstance(error, Corruption):
        log.error("corruption", code=error.code, exc_info=error)
    elif isinstance(error, Unavailable):
        log.warning("unavailable", code=error.code, dependency=error.fields.get("dependency"))
    elif isinstance(error, DaybookError) and problem(error)[0] != 500:
        log.debug("refused", code=error.code)
    else:
        log.error("request_failed", exc_info=error)


def on_daybook_error(request: Request[Any, Any, Any], error: DaybookError) -> Response[dict[str, Field]]:
    """For Litestar: one of our own errors."""
    log_error(error)
    answer = problem_answer(error, context_of(request.scope).trace_id)
    return Response(answer.document, status_code=answer.status, headers=answer.headers, media_type=PROBLEM_TYPE)


def on_http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[dict[str, Field]]:
    """For Litestar: what it finds wrong by itself, in our codes. Its texts go no further than parameters' faults."""
    if error.status_code == 500:
        return on_exception(request, error)
    if isinstance(error, ValidationException):
        ours: DaybookError = _parameter_fault(error)
    elif error.status_code == 400:
        ours = invalid("$", error.detail)
    else:
        ours = Rejection(_CODES.get(error.status_code, "internal_error"))
    answer = on_daybook_error(request, ours)
    if error.headers:
        answer.headers.update(error.headers)  # Allow, at 405
    return answer


def on_exception(request: Request[Any, Any, Any], error: Exception) -> Response[dict[str, Field]]:
    """For Litestar: anything else. Logged with its place; the caller learns the trace id and nothing more."""
    log.error("request_failed", exc_info=error)
    answer = problem_answer(DaybookError("internal_error"), context_of(request.scope).trace_id)
    return Response(answer.document, status_code=answer.status, media_type=PROBLEM_TYPE)


def _parameter_fault(error: ValidationException) -> Rejection:
    faults = error.extra if isinstance(error.extra, list) else []
    for fault in faults:
        if isinstance(fault, dict) and "message" in fault:
            name, message = str(fault.get("key", "")) or "$", str(fault["message"])
            if fault.get("source") == "body":  # of the body itself, not of a field, the parameter's own name is told
                return (
                    rejection_of(msgspec.ValidationError(message)) if name == "data" else invalid(f"$.{name}", message)
                )
            return invalid(name, message)
    missing = _MISSING.match(error.detail)
    return invalid("$", error.detail) if missing is None else invalid(missing[1], "The query parameter is required")
