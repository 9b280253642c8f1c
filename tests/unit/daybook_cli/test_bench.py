"""The load generator counts what was acknowledged and nothing else, and its report says what it measured."""

import json
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from bench import processor, workloads
from bench.__main__ import Report, to_markdown
from bench.generator import Measured, UnexpectedAnswer, Workload, measure, percentile
from bench.locks import COUNTED, Cell
from bench.locks import Report as LocksReport
from bench.locks import to_markdown as locks_to_markdown
from bench.stack import Origin
from bench.yardstick import Server
from tests.unit.daybook_cli.conftest import Reply, Request, Service

MEASURED = Measured(
    connections=64,
    transactions=25_000,
    acknowledged=36_000,
    seconds=5.0,
    rate=5000.0,
    p50_ms=11.0,
    p99_ms=24.0,
    longest_ms=40.0,
    generator_cpu=0.1,
    processor_us={"command": 190.0, "postgres command": 60.4},
    behind_ms_max=310.0,
)


def singles() -> Workload:
    return workloads.singles("127.0.0.1", "t", "bank", "run")


async def run(service: Service, workload: Workload) -> Measured:
    return await measure(service.url, workload, connections=2, warm_up_seconds=0.05, window_seconds=0.1)


def requests_of(service: Service) -> list[Request]:
    return [request for request in service.requests if request.path == "/v1/ledgers/bank/transactions"]


async def test_every_acknowledged_request_is_counted_and_has_a_key_of_its_own(service: Service) -> None:
    service.script = lambda request: Reply(201, {"position": 1})
    measured = await run(service, singles())
    requests = requests_of(service)
    assert measured.acknowledged == len(requests) >= measured.transactions > 0
    assert len({request.key for request in requests}) == len(requests)
    body = json.loads(requests[0].body)
    assert [entry["direction"] for entry in body["entries"]] == ["debit", "credit"]
    assert body["entries"][0]["account"] != body["entries"][1]["account"]


@pytest.mark.parametrize("trouble", [Reply(422, {"code": "insufficient_funds"}), Reply(503, {}), Reply(0, None)])
async def test_any_other_answer_ends_the_measurement(service: Service, trouble: Reply) -> None:
    service.script = lambda request: trouble if len(service.requests) > 5 else Reply(201, {})
    with pytest.raises(UnexpectedAnswer):
        await run(service, singles())


async def test_in_an_open_loop_what_waits_for_a_connection_waits_at_the_services_cost(service: Service) -> None:
    def slow(request: Request) -> Reply:
        time.sleep(0.02)
        return Reply(201, {"position": 1})

    service.script = slow
    measured = await measure(
        service.url, singles(), connections=1, a_second=500, warm_up_seconds=0.0, window_seconds=0.4
    )
    # One answer in 20 ms, one request in 2: the last that was answered had been due for most of the window.
    assert measured.longest_ms > 100
    assert measured.acknowledged == len(requests_of(service)) < 25


async def test_in_an_open_loop_every_connection_has_its_turn(service: Service) -> None:
    threads: set[int] = set()  # the service has one for each connection

    def serve(request: Request) -> Reply:
        threads.add(threading.get_ident())
        return Reply(201, {"position": 1})

    service.script = serve
    await measure(service.url, singles(), connections=4, a_second=40, warm_up_seconds=0.0, window_seconds=0.5)
    assert len(threads) == 4  # though one would have been enough


def batch_answer(*statuses: int) -> bytes:
    results = [{"status": status, "body": {}} for status in statuses]
    return b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps({"results": results}, separators=(",", ":")).encode()


def test_a_batch_counts_only_where_each_of_its_commands_was_posted() -> None:
    workload = workloads.batches("127.0.0.1", "t", "bank", "run")
    sent: dict[str, Any] = json.loads(workload.make().split(b"\r\n\r\n", 1)[1])
    assert len({command["key"] for command in sent["commands"]}) == workloads.BATCH_COMMANDS
    assert workload.count(batch_answer(*[201] * 100)) == 100
    with pytest.raises(UnexpectedAnswer):
        workload.count(batch_answer(*[201] * 99, 422))


def test_all_requests_of_a_workload_state_their_true_length() -> None:
    for workload in (singles(), workloads.batches("127.0.0.1", "t", "bank", "run")):
        for _ in range(50):
            head, body = workload.make().split(b"\r\n\r\n", 1)
            assert f"content-length: {len(body)}".encode() in head


def test_percentiles_are_by_nearest_rank() -> None:
    latencies = [number / 1000 for number in range(1, 101)]
    assert percentile(latencies, 50) == pytest.approx(50)
    assert percentile(latencies, 99) == pytest.approx(99)
    assert percentile([0.007], 99) == pytest.approx(7)


def test_the_report_names_the_ratio_and_what_it_was_measured_on() -> None:
    report = Report(
        name="first-light",
        origin=Origin(
            measured_at="2026-11-24T10:00:00+00:00",
            commit="abc",
            machine="x86_64",
            cores=2,
            python="3.11.7",
            postgres=Server(version="18.6", fsync="on", synchronous_commit="on", full_page_writes="on"),
        ),
        pgbench="pgbench -n",
        inserts_before=22_000,
        inserts_after=20_000,
        singles=[MEASURED],
        batches=None,
        ratio=0.238,
        gate=0.2,
    )
    table = to_markdown(report)
    assert "| 1 transaction a request | 64 | 5,000 | 11.0 | 24.0 | 0.10 |" in table
    assert "22,000 · 20,000" in table
    assert "**0.24**" in table
    assert "fsync on" in table
    assert "250 µs, of which command 190 · postgres command 60" in table
    assert "310 ms behind the log" in table


def test_processor_time_is_told_by_process_for_a_transaction_the_dearest_first() -> None:
    before = {"command": 1.0, "relay": 2.0, "gone": 1.0}
    after = {"relay": 2.0004, "command": 1.002, "new": 9.0}
    assert list(processor.spent_us(before, after, 10).items()) == [("command", 200.0), ("relay", 40.0)]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only where the system tells it")
def test_what_a_process_and_this_one_took_is_read_from_the_system() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        seconds = processor.reader({"child": child.pid})()
    finally:
        child.kill()
        child.wait()
    assert seconds["generator"] > 0
    assert seconds["child"] < 1
    assert "gone" not in processor.reader({"gone": child.pid})()


def test_the_report_on_locks_has_a_row_a_cell_in_the_order_of_the_workloads() -> None:
    def cell(workload: str, processes: int, setting: str) -> Cell:
        return Cell(
            workload=workload,
            processes=processes,
            locks=setting,
            transactions=2_000,
            rate=500.0,
            p50_ms=10.0,
            p99_ms=20.0,
            processor_us={"command 0": 100.0, "command 1": 60.0, "postgres command": 80.0, "redis": 5.0},
            counted=dict.fromkeys(COUNTED, 0) | {"appends": 50, "conflicts": 20, "set aside": 3_000},
        )

    origin = Origin.here(Server(version="18.6", fsync="on", synchronous_commit="on", full_page_writes="on"))
    cells = [cell("W3", 2, "off"), cell("W1", 1, "always"), cell("W1", 1, "off")]
    rows = locks_to_markdown(LocksReport(name="locks", origin=origin, lease_ms=1_500, cells=cells)).splitlines()[4:7]
    assert [row.split(" | ")[:3] for row in rows] == [
        ["| W1", "1", "off"],
        ["| W1", "1", "always"],
        ["| W3", "2", "off"],
    ]
    assert rows[2] == "| W3 | 2 | off | 500 | 10.0 | 20.0 | 160 | 80 | 5 | 40 % | 0 | 0 | 1,500 | 0 | 0 |"
