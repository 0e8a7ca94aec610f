"""What following tasks costs, and how late a change is told.

Slots stand in for model replicas (see bench/slots.py). Each reports once, at half time; its trace says when.
"""

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from bench.http_load import cpu_s, get
from bench.stage import Stage, submit
from testbed.cluster import Cluster
from testbed.service import Service, wait_for

_PROCESSES = 4
_SLOTS = 25
_RUN_S = 20.0
_APART_S = 0.05
"""Seconds between two begins, so also between two reports: all runs have begun when the first one reports."""
_WATCHED_S = 10.0
_DEADLINE_S = 120.0


def streams(cluster: Cluster, folder: Path, *, count: int) -> Mapping[str, float]:
    """Measure ``count`` streams of waiting tasks, then one stream of a hundred running ones."""
    stage = Stage(cluster, folder)
    with stage.deploy(_PROCESSES, _SLOTS, _RUN_S) as service:
        figures = asyncio.run(_idle_cost(service, count))
        httpx.delete(f"{service.url}/v1/tasks/all/waiting", timeout=60).raise_for_status()
        told = asyncio.run(_told(service, stage))
        # A slot writes down a run at its end, also one that was cancelled.
        wait_for(lambda: len(stage.runs()) >= len(told), _DEADLINE_S, lambda: "runs are missing")
    began = sorted(began for began, _ in stage.runs())[: len(told)]
    # Both are sorted by time: of two reports that pass each other the mean is exact.
    lags = [1000 * (at - (start + _RUN_S / 2)) for at, start in zip(sorted(told), began, strict=True)]
    return {**figures, "event_lag_ms": statistics.median(lags), "event_lag_p95_ms": _p95(lags)}


async def _idle_cost(service: Service, count: int) -> Mapping[str, float]:
    """Measure the processor time of the ingress while ``count`` streams are open, each on a task's own."""
    await submit(service, count)
    path = urlsplit(service.url).path
    task_ids = [task["task_id"] for task in service.get("/v1/tasks?limit=500")["tasks"]]
    async with AsyncExitStack() as opened:
        for number in range(count):
            stream = _stream(service, f"{path}/v1/tasks/{task_ids[number % len(task_ids)]}/events")
            events = await opened.enter_async_context(stream)
            await events.next()
        (pid,) = service.replica_pids("api").values()
        before = cpu_s(pid)
        await asyncio.sleep(_WATCHED_S)
        used = (cpu_s(pid) - before) / _WATCHED_S
    return {f"cores_of_{count}_streams": used}


async def _told(service: Service, stage: Stage) -> list[float]:
    """Return when a client got the report of each of a hundred runs, by the monotonic clock."""
    told: list[float] = []
    async with _stream(service, f"{urlsplit(service.url).path}/v1/events") as events:
        stage.open_gate()
        for _ in range(_PROCESSES * _SLOTS):  # so many reports at once would wait for each other
            await submit(service, 1)
            await asyncio.sleep(_APART_S)
        async with asyncio.timeout(_DEADLINE_S):
            while len(told) < _PROCESSES * _SLOTS:
                document = await events.next()
                if document["status"] == "running" and document["step"] == 1:
                    told.append(time.monotonic())
    httpx.delete(f"{service.url}/v1/tasks/all/running", timeout=60).raise_for_status()
    return told


@asynccontextmanager
async def _stream(service: Service, path: str) -> AsyncIterator["_Events"]:
    address = urlsplit(service.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(get(path))
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head and b"chunked" in head.lower(), head
        yield _Events(reader)
    finally:
        writer.close()


class _Events:
    """The events in a chunked body."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._text = b""

    async def next(self) -> Mapping[str, object]:
        """Return the data of the next event."""
        while True:
            while b"\n\n" not in self._text:
                size = int(await self._reader.readuntil(b"\r\n"), 16)
                assert size, "the stream ended"
                self._text += (await self._reader.readexactly(size + 2))[:-2]
            event, _, self._text = self._text.partition(b"\n\n")
            _, is_data, data = event.partition(b"data: ")
            if is_data:
                document: Mapping[str, object] = json.loads(data)
                return document


def _p95(values: list[float]) -> float:
    return sorted(values)[int(0.95 * len(values))]
