"""How Daybook's processes ask others over HTTP: each step of a call is bounded.

Nothing else opens a URL (tests/unit/test_house_rules.py) but the command line's own client. Knows neither what is asked nor why.
"""

import urllib.request
from http.client import HTTPResponse
from typing import cast

# Neighbours and loopback are never proxied, whatever the environment says of the world outside.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def open_url(
    url: str,
    *,
    timeout_s: float,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
    is_neighbour: bool = False,
) -> HTTPResponse:
    """The answer, which the caller closes; with a body it is a POST. `timeout_s` bounds connecting, and each wait for bytes.

    OSError where there is none in time; HTTPError is one of them, and an answer to be closed too.
    """
    request = urllib.request.Request(url, body, headers or {})  # noqa: S310 - settings admit http and https alone
    if is_neighbour:
        return cast("HTTPResponse", _opener.open(request, timeout=timeout_s))
    return cast("HTTPResponse", urllib.request.urlopen(request, timeout=timeout_s))  # noqa: S310
