"""What a request says about itself beside its body: who calls, how to correlate it, which trace it belongs to.

Made once by the edge, left in the ASGI scope, read by routes and error handlers through `context_of`.
"""

import random
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from shared_kernel.security import Principal

SCOPE_KEY = "daybook"
SURPLUS_KEY = "daybook.surplus"
"""In the scope of requests that are to be turned away: true if they came on one connection too many, false if they waited too long."""
BODY_KEY = "daybook.body"
"""In the ASGI scope: the whole body, where it came before anybody asked for it, or once the edge has read it."""
WHOLE = "daybook.response"
"""In the ASGI scope: the server takes an answer in one message of this type, with `status`, `headers` and `body`."""
_CORRELATION_ID = re.compile(rb"[A-Za-z0-9._:@/+=-]{1,128}")
# W3C Trace Context §3.2.2: version, trace id, parent id, flags; all-zero ids are invalid.
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


class RequestContext(msgspec.Struct, kw_only=True):
    """`traceparent` is the header as it came, if well formed. `trace_id` is its trace, else the correlation id.

    `has_text_amounts`: amounts are answered as strings. The edge sees to that; no route needs to.
    """

    correlation_id: str
    trace_id: str
    traceparent: str | None = None
    principal: Principal | None = None
    has_text_amounts: bool = False
    headers: dict[bytes, bytes] = {}
    """All of the request's; of a name that is there twice, the last."""


def context_of(scope: Mapping[str, Any]) -> RequestContext:
    """The context of a request, from its ASGI scope (`request.scope`)."""
    context: RequestContext = scope[SCOPE_KEY]
    return context


def read_context(headers: dict[bytes, bytes], *, id_header: bytes) -> RequestContext:
    """The context from its headers. What is malformed is replaced, not refused: it is only about finding things again."""
    correlation_id, traceparent = headers.get(id_header), headers.get(b"traceparent")
    trace_id = None
    if traceparent is not None:
        match = _TRACEPARENT.fullmatch(traceparent)
        if match is not None:
            trace_id = match.group(1).decode()
    if correlation_id is not None and _CORRELATION_ID.fullmatch(correlation_id):
        correlation = correlation_id.decode()
    else:
        correlation = trace_id or f"{random.getrandbits(128):032x}"  # a name, not a secret
    return RequestContext(
        correlation_id=correlation,
        trace_id=trace_id or correlation,
        traceparent=traceparent.decode() if traceparent is not None and trace_id is not None else None,
        headers=headers,
    )
