"""The limits of one service: slots kept busy, a burst taken in and worked off, replicas following a load.

Runs a real Ray cluster on this machine. In all parts but the last slots stand in for model replicas (see
bench/slots.py), so that two cores can play a cluster; in the last replicas are real, with the paced
engine of the testbed.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx

from bench.http_load import Load, load, post
from bench.machine import describe
from testbed.cluster import Cluster, paced
from testbed.service import Service, wait_for

CONNECTIONS = 32
_DEADLINE_S = 900
_DELAYS = {"upscale_delay_s": 2.0, "downscale_delay_s": 5.0, "downscale_to_zero_delay_s": 5.0}
_BODY = {"prompt": "A white cat sitting by the beach", "width": 64, "height": 64, "num_frames": 5}


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="scripts/bench scale", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--seconds", type=int, default=30, help="how long slots are kept busy (default 30)")
    parser.add_argument("--burst", type=int, default=10_000, help="tasks of the burst (default 10000)")
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


def _short(cluster: Cluster, folder: Path, options: argparse.Namespace) -> Mapping[str, float]:
    """Measure eight slots with tasks so short that the gaps between them show."""
    busy = _busy(cluster, folder, processes=4, slots=2, seconds=0.1, for_s=options.seconds)
    return {"busy_pct_8_slots_of_0.1_s": busy}


def _many(cluster: Cluster, folder: Path, options: argparse.Namespace) -> Mapping[str, float]:
    """Measure sixty-four slots."""
    busy = _busy(cluster, folder, processes=4, slots=16, seconds=1.0, for_s=options.seconds)
    return {"busy_pct_64_slots_of_1_s": busy}


def _busy(
    cluster: Cluster, folder: Path, *, processes: int, slots: int, seconds: float, for_s: float
) -> float:
    """Return the percentage of time that slots run a task, while there is a task for each slot."""
    tasks = int(for_s * processes * slots / seconds)
    with deploy_slots(cluster, folder, processes, slots, seconds) as service:
        asyncio.run(submit_all(service, tasks))
        open_gate(folder)
        _drain(service)
    runs = runs_of(folder)
    since = min(began for began, _ in runs)
    until = max(began for began, _ in runs) - seconds
    busy_s = sum(max(0.0, min(ended, until) - began) for began, ended in runs)
    return 100 * busy_s / (processes * slots * (until - since))


def _limit(cluster: Cluster, folder: Path, options: argparse.Namespace) -> Mapping[str, float]:
    """Measure the tasks a second that one coordinator can give to slots that never wait."""
    with deploy_slots(cluster, folder, processes=4, slots=16, seconds=0.0) as service:
        asyncio.run(submit_all(service, 100 * options.seconds))
        open_gate(folder)
        _drain(service)
    ends = sorted(ended for _, ended in runs_of(folder))
    return {"tasks_per_s_at_most": len(ends) / (ends[-1] - ends[0])}


def _burst(cluster: Cluster, folder: Path, options: argparse.Namespace) -> Mapping[str, float]:
    """Measure a burst of submits with nothing running, then one while sixty-four slots work it off."""
    with deploy_slots(cluster, folder, processes=4, slots=16, seconds=1.0) as service:
        submits = asyncio.run(submit_all(service, options.burst))
        open_gate(folder)
        at_work = asyncio.run(submit_all(service, options.burst // 5))
        _drain(service)
    ends = sorted(ended for _, ended in runs_of(folder))
    return {
        "burst_submit_rps": submits.rps,
        "burst_submit_p99_ms": submits.p99_ms,
        "at_work_submit_rps": at_work.rps,
        "at_work_submit_p99_ms": at_work.p99_ms,
        "burst_tasks_per_s": len(ends) / (ends[-1] - ends[0]),
        "burst_longest_stall_s": max(b - a for a, b in pairwise(ends)),
    }


def _step(cluster: Cluster, folder: Path, options: argparse.Namespace) -> Mapping[str, float]:
    """Measure a load step on a model at zero: seconds to eight replicas, and back to none."""
    rules = {"min_replicas": 0, "max_replicas": 8, "target_queue_wait_s": 5.0, **_DELAYS}
    with cluster.deploy(models=[paced(0.5, autoscaling=rules, cpus_per_replica=0.1)]) as service:
        began = time.monotonic()
        for _ in range(80):
            service.submit(**{**_BODY, "infer_steps": 10})
        _wait_for_replicas(service, "wanted_replicas", 8)
        wanted_s = time.monotonic() - began
        _wait_for_replicas(service, "replicas", 8)
        up_s = time.monotonic() - began
        _drain(service)
        ended = time.monotonic()
        _wait_for_replicas(service, "wanted_replicas", 0)
        down_s = time.monotonic() - ended
    return {
        "step_eight_wanted_s": wanted_s,
        "step_eight_up_s": up_s,
        "step_zero_wanted_s": down_s,
        "step_delays_down_s": _DELAYS["downscale_delay_s"] + _DELAYS["downscale_to_zero_delay_s"],
    }


PARTS = {"short": _short, "many": _many, "limit": _limit, "burst": _burst, "step": _step}


def deploy_slots(
    cluster: Cluster, folder: Path, processes: int, slots: int, seconds: float, reports: int = 1
) -> Any:
    """Deploy the service with ``processes`` times ``slots`` slots, whose runs take ``seconds`` each."""
    (folder / "trace").mkdir(parents=True)
    paths = {"trace": str(folder / "trace"), "gate": str(_gate(folder))}
    model = paced(0.0, replicas=processes)
    model["options"] = {"slots": slots, "seconds": seconds, "reports": reports, **paths}
    return cluster.deploy(
        import_path="bench.slots_application:build", models=[model], limits={"max_queued": 100_000}
    )


async def submit_all(service: Service, tasks: int) -> Load:
    """Submit so many tasks over ``CONNECTIONS`` connections."""
    request = post(f"{httpx.URL(service.url).path}/v1/tasks/video", json.dumps(_BODY).encode())
    return await load(service.url, lambda _: request, requests=tasks, connections=CONNECTIONS)


def _drain(service: Service) -> None:
    """Wait until every task has ended, as it should."""

    def is_drained() -> bool:
        time.sleep(1.0)  # each look costs the service more than a task does
        queue = service.get("/v1/tasks/queue/status")
        return bool(queue["pending_count"] + queue["active_count"] == 0)

    wait_for(is_drained, _DEADLINE_S, lambda: str(service.get("/v1/tasks/queue/status")))
    status = service.get("/v1/service/status")
    assert status["completed_tasks"] == status["total_tasks"], f"not all succeeded: {status}"


def _wait_for_replicas(service: Service, which: str, count: int) -> None:
    def found() -> Any:
        return service.get("/v1/service/status")["models"]["paced"][which]

    wait_for(lambda: found() == count, _DEADLINE_S, lambda: f"{which}: {found()}")


def _gate(folder: Path) -> Path:
    return folder / "open"


def open_gate(folder: Path) -> None:
    """Let the slots begin."""
    _gate(folder).touch()


def runs_of(folder: Path) -> list[tuple[float, float]]:
    """Return when each run began and ended, in seconds of the monotonic clock."""
    files = (folder / "trace").glob("*.runs")
    lines = [line.split() for file in files for line in file.read_text().splitlines()]
    return [(float(began), float(ended)) for _, began, ended in lines]
