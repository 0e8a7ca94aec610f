"""The front door beside two others: its own with the native surface alone, and a bare FastAPI echo.

All are deployed in the same run behind the same proxy, one after the other, so their ratios hold whatever the
machine does besides. Processor time is the ingress's own.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from bench.http_load import CONNECTIONS, SMALL, Load, cpu_s, get, load, post, submits
from serve_app.api.ingress import API
from testbed.cluster import Cluster, paced
from testbed.service import Service

_STATUSES = 100
_PATHS = {"native": "bench.door_applications:native_alone", "all": "serve_app.app:build"}


async def front_doors(cluster: Cluster, requests: int) -> Mapping[str, float]:
    """Measure submits and statuses of both services, and the echo; then their ratios."""
    found: dict[str, _Door] = {}
    with cluster.deploy(import_path="bench.door_applications:echo") as service:
        path = urlsplit(service.url).path
        body = json.dumps({"prompt": "A white cat sitting by the beach under sunset sky", **SMALL}).encode()
        found["echo"] = await _measure(service, lambda _: post(f"{path}/echo", body), requests)
    for name, import_path in _PATHS.items():
        # A run of 200 such steps outlasts the measurement: nothing is taken from the queue meanwhile.
        limits = {"max_queued": 10 * requests}
        with cluster.deploy(import_path=import_path, models=[paced(3.0)], limits=limits) as service:
            path = urlsplit(service.url).path
            found[f"submit_{name}"] = await _measure(service, submits(path), requests)
            task_ids = [task["task_id"] for task in service.get(f"/v1/tasks?limit={_STATUSES}")["tasks"]]
            statuses = [get(f"{path}/v1/tasks/{task_id}/status") for task_id in task_ids]
            found[f"status_{name}"] = await _measure(service, _in_turn(statuses), requests)
    echo = found["echo"]
    figures = {f"{name}_cpu_us": door.cpu_us for name, door in found.items()}
    for which in ("submit", "status"):
        ours, native = found[f"{which}_all"], found[f"{which}_native"]
        figures[f"{which}_of_echo"] = ours.load.rps / echo.load.rps
        figures[f"{which}_p99_of_echo"] = ours.load.p99_ms / echo.load.p99_ms
        figures[f"{which}_of_native_alone"] = ours.load.rps / native.load.rps
    return figures


def _in_turn(asked: Sequence[bytes]) -> Callable[[int], bytes]:
    return lambda number: asked[number % len(asked)]


@dataclass(frozen=True, slots=True)
class _Door:
    """What one door did: its answers, and the ingress's processor time for each, in microseconds."""

    load: Load
    cpu_us: float


async def _measure(service: Service, request: Callable[[int], bytes], requests: int) -> _Door:
    (pid,) = service.replica_pids(API).values()
    await load(service.url, request, requests=max(1, requests // 10), connections=CONNECTIONS)
    before = cpu_s(pid)
    done = await load(service.url, request, requests=requests, connections=CONNECTIONS)
    return _Door(done, 1e6 * (cpu_s(pid) - before) / requests)
