"""What Daybook's processes say of themselves at /metrics: how many commands wait, which breakers are open.

Every address that a name has is asked: behind one name of a cluster stand several processes.
"""

import asyncio
import socket
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from daybook.monitor.domain.looks import Process
from shared_kernel.http_out import open_url

QUEUE_DEPTH: Final = "daybook_queue_depth"
BREAKER_STATE: Final = "daybook_breaker_state"  # 0 closed, 1 half-open, 2 open
ADDRESSES_MAX: Final = 50  # chosen: processes of one kind
METRICS_BYTES_MAX: Final = 4 * 1024 * 1024


class ProcessMetrics:
    """Implements `Processes`. `timeout_ms` bounds each connection and each wait for bytes, and twice that all together."""

    def __init__(self, urls: Sequence[str], *, timeout_ms: int) -> None:
        self._urls = urls
        self._timeout_s = timeout_ms / 1_000

    async def ask(self) -> tuple[list[Process], str]:
        """All of them at once."""
        if not self._urls:
            return [], "DAYBOOK_METRICS_URLS is not set"
        found = await asyncio.gather(*(self._of_name(url) for url in self._urls))
        return [process for processes in found for process in processes], ""

    async def _of_name(self, url: str) -> list[Process]:
        parts = urlsplit(url)
        try:
            async with asyncio.timeout(2 * self._timeout_s):
                loop = asyncio.get_running_loop()
                known = await loop.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
                places = sorted({str(address[0]) for *_, address in known})[:ADDRESSES_MAX]
                if len(places) == 1:
                    return [await asyncio.to_thread(self._ask, url)]
                each = [parts._replace(netloc=_netloc(place, parts.port)).geturl() for place in places]
                return list(await asyncio.gather(*(asyncio.to_thread(self._ask, place) for place in each)))
        except (OSError, TimeoutError) as error:
            return [Process(url=url, fault=type(error).__name__)]

    def _ask(self, url: str) -> Process:
        try:
            with open_url(url, timeout_s=self._timeout_s, is_neighbour=True) as answer:
                text = answer.read(METRICS_BYTES_MAX).decode()
            return _read(url, text)
        except (OSError, ValueError) as error:
            return Process(url=url, fault=type(error).__name__)


def _read(url: str, text: str) -> Process:
    depth: int | None = None
    breakers = []
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == QUEUE_DEPTH:
                depth = int(sample.value)
            elif sample.name == BREAKER_STATE and sample.value:
                breakers.append(sample.labels.get("dependency", "?"))
    return Process(url=url, queue_depth=depth, open_breakers=breakers)


def _netloc(address: str, port: int | None) -> str:
    host = f"[{address}]" if ":" in address else address
    return host if port is None else f"{host}:{port}"
