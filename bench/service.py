"""The cost of the service: on a generation, between two of them, in requests per second, in memory.

Runs a real Ray cluster on this machine. The engine is the paced one, which keeps the engine contract and
takes no processor, so that what is measured is the service; the memory is the real demo model's.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from bench.front_doors import front_doors
from bench.http_load import CONNECTIONS, SMALL, Load, get, load, submits
from bench.machine import describe
from bench.streams import streams
from testbed.cluster import Cluster, demo, paced
from testbed.service import Service

QUEUED = 10_000
_DEADLINE_S = 600


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="scripts/bench service", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--requests", type=int, default=3000, help="requests of each load (default 3000)")
    parser.add_argument("--tasks", type=int, default=200, help="tasks of the memory run (default 200)")
    parser.add_argument("--streams", type=int, default=1000, help="open streams (default 1000)")
    parser.add_argument("--only", choices=PARTS, help="this part alone")
    options = parser.parse_args(arguments)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder)) as cluster:
        for name, part in PARTS.items():
            if options.only in (None, name):
                figures |= part(cluster, Path(folder) / name, options)
    print(describe())
    for name, figure in figures.items():
        print(f"{name:<32}{figure:>12.3f}")
    if options.json:
        print(json.dumps({name: round(figure, 4) for name, figure in figures.items()}))
    return 0


def _overhead(cluster: Cluster, _folder: Path, _options: argparse.Namespace) -> Mapping[str, float]:
    """Measure by how much a task takes longer than its engine's ten seconds; the median of three."""
    with cluster.deploy(models=[paced(1.0)]) as service:
        spans = [_span(_finish(service, infer_steps=10)) for _ in range(3)]
    return {"overhead_pct": 100 * (statistics.median(spans) - 10) / 10}


def _idle_gap(cluster: Cluster, trace: Path, _options: argparse.Namespace) -> Mapping[str, float]:
    """Measure the milliseconds between the last frame of a queued task and the begin of the next."""
    model = paced(0.05)
    model["options"] |= {"trace": str(trace)}
    with cluster.deploy(models=[model]) as service:
        for task_id in [service.submit(**SMALL, infer_steps=10) for _ in range(40)]:
            service.until(task_id, "succeed", deadline_s=_DEADLINE_S)
    marks = [line.split() for line in trace.read_text().splitlines()][2:]  # the first pair is the warm-up
    times = [float(when) for _, when in marks]
    gaps = [1000 * (begin - end) for end, begin in zip(times[1::2], times[2::2], strict=False)]
    return {"idle_gap_ms": statistics.median(gaps), "idle_gap_p95_ms": sorted(gaps)[int(0.95 * len(gaps))]}


def _loads(cluster: Cluster, _folder: Path, options: argparse.Namespace) -> Mapping[str, float]:
    return asyncio.run(_requests(cluster, options.requests))


def _doors(cluster: Cluster, _folder: Path, options: argparse.Namespace) -> Mapping[str, float]:
    return asyncio.run(front_doors(cluster, options.requests))


def _streams(cluster: Cluster, folder: Path, options: argparse.Namespace) -> Mapping[str, float]:
    return streams(cluster, folder, count=options.streams)


async def _requests(cluster: Cluster, requests: int) -> Mapping[str, float]:
    """Measure submits and status queries with an almost empty queue and with 10,000 tasks in it."""
    figures: dict[str, float] = {}
    # A run of 200 such steps outlasts the measurement: nothing is taken from the queue meanwhile.
    with cluster.deploy(models=[paced(3.0)], limits={"max_queued": 10 * QUEUED}) as service:
        figures |= await _submits_and_statuses(service, requests, "")
        await _submit(service, QUEUED - requests)
        figures |= await _submits_and_statuses(service, requests, "_with_10000_queued")
        httpx.delete(f"{service.url}/v1/tasks/all/running", timeout=60).raise_for_status()
    return figures


async def _submits_and_statuses(service: Service, requests: int, suffix: str) -> Mapping[str, float]:
    submits = await _submit(service, requests)
    task_ids = [task["task_id"] for task in service.get("/v1/tasks?limit=100")["tasks"]]
    path = httpx.URL(service.url).path
    statuses = await load(
        service.url,
        lambda number: get(f"{path}/v1/tasks/{task_ids[number % len(task_ids)]}/status"),
        requests=requests,
        connections=CONNECTIONS,
    )
    return {
        f"submit_rps{suffix}": submits.rps,
        f"submit_p99_ms{suffix}": submits.p99_ms,
        f"status_rps{suffix}": statuses.rps,
        f"status_p99_ms{suffix}": statuses.p99_ms,
    }


async def _submit(service: Service, requests: int) -> Load:
    path = httpx.URL(service.url).path
    return await load(service.url, submits(path), requests=requests, connections=CONNECTIONS)


def _memory(cluster: Cluster, _folder: Path, options: argparse.Namespace) -> Mapping[str, float]:
    """Measure the growth of the replica's resident memory, in MB a task; the first fifth is left out."""
    with cluster.deploy(models=[demo()]) as service:
        (pid,) = service.replica_pids("model-demo").values()
        sizes_mb = []
        for _ in range(options.tasks):
            _finish(service, infer_steps=2)
            sizes_mb.append(psutil.Process(pid).memory_info().rss / 1e6)
    settled = sizes_mb[options.tasks // 5 :]
    return {
        "rss_slope_mb_per_task": float(np.polyfit(range(len(settled)), settled, 1)[0]),
        "rss_mb": settled[-1],
    }


def _finish(service: Service, **fields: Any) -> Mapping[str, Any]:
    return service.until(service.submit(**SMALL, **fields), "succeed", deadline_s=_DEADLINE_S)


def _span(status: Mapping[str, Any]) -> float:
    created, finished = (datetime.fromisoformat(status[key]) for key in ("created_at", "finished_at"))
    return (finished - created).total_seconds()


PARTS = {
    "overhead": _overhead,
    "idle_gap": _idle_gap,
    "requests": _loads,
    "front_doors": _doors,
    "memory": _memory,
    "streams": _streams,
}
