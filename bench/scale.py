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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.fleet import alone, fleet
from bench.machine import describe
from bench.stage import BODY, DEADLINE_S, Stage, drain, submit
from testbed.cluster import Cluster, paced
from testbed.postgres_server import PostgresServer, programs
from testbed.service import Service, wait_for

_STORES = ("sqlite", "postgres")
_DELAYS = {"upscale_delay_s": 2.0, "downscale_delay_s": 5.0, "downscale_to_zero_delay_s": 5.0}


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="scripts/bench scale", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--seconds", type=int, default=30, help="how long slots are kept busy (default 30)")
    parser.add_argument("--burst", type=int, default=10_000, help="tasks of the burst (default 10000)")
    parser.add_argument("--replicas", type=int, default=1000, help="slots of the fleet (default 1000)")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=[*PARTS], help="these parts alone")
    parser.add_argument("--store", choices=_STORES, nargs="+", default=["sqlite"], help="the task store's")
    options = parser.parse_args(arguments)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder)) as cluster:
        for store in options.store:
            with _databases(store) as new_database:
                for name in options.only:
                    stage = Stage(cluster, Path(folder) / store / name, new_database)
                    found = PARTS[name](stage, options)
                    figures |= {f"{store}_{figure}": value for figure, value in found.items()}
    print(describe())
    for name, figure in figures.items():
        print(f"{name:<40}{figure:>12.3f}")
    if options.json:
        print(json.dumps({name: round(figure, 4) for name, figure in figures.items()}))
    return 0


@contextmanager
def _databases(store: str) -> Iterator[Callable[[], str | None]]:
    """Yield what returns the address of a new database of this store."""
    if store == "sqlite":
        yield lambda: None
        return
    found = programs()
    if found is None:
        raise SystemExit("--store postgres needs a PostgreSQL server (Debian's package postgresql)")
    with PostgresServer(found) as server:
        yield server.new_database


def _short(stage: Stage, options: argparse.Namespace) -> Mapping[str, float]:
    """Measure eight slots with tasks so short that the gaps between them show."""
    return {
        "busy_pct_8_slots_of_0.1_s": _busy(stage, processes=4, slots=2, seconds=0.1, for_s=options.seconds)
    }


def _many(stage: Stage, options: argparse.Namespace) -> Mapping[str, float]:
    """Measure sixty-four slots."""
    return {
        "busy_pct_64_slots_of_1_s": _busy(stage, processes=4, slots=16, seconds=1.0, for_s=options.seconds)
    }


def _busy(stage: Stage, *, processes: int, slots: int, seconds: float, for_s: float) -> float:
    """Return the percentage of time that slots run a task, while there is a task for each slot."""
    with stage.deploy(processes, slots, seconds) as service:
        asyncio.run(submit(service, int(for_s * processes * slots / seconds)))
        stage.open_gate()
        drain(service)
    runs = stage.runs()
    since = min(began for began, _ in runs)
    until = max(began for began, _ in runs) - seconds
    busy_s = sum(max(0.0, min(ended, until) - began) for began, ended in runs)
    return 100 * busy_s / (processes * slots * (until - since))


def _limit(stage: Stage, options: argparse.Namespace) -> Mapping[str, float]:
    """Measure the tasks a second that one coordinator can give to slots that never wait."""
    with stage.deploy(processes=4, slots=16, seconds=0.0) as service:
        asyncio.run(submit(service, 100 * options.seconds))
        stage.open_gate()
        drain(service)
    ends = sorted(ended for _, ended in stage.runs())
    return {"tasks_per_s_at_most": len(ends) / (ends[-1] - ends[0])}


def _burst(stage: Stage, options: argparse.Namespace) -> Mapping[str, float]:
    """Measure a burst of submits with nothing running, then one while sixty-four slots work it off."""
    with stage.deploy(processes=4, slots=16, seconds=1.0) as service:
        submits = asyncio.run(submit(service, options.burst))
        stage.open_gate()
        at_work = asyncio.run(submit(service, options.burst // 5))
        drain(service)
    ends = sorted(ended for _, ended in stage.runs())
    return {
        "burst_submit_rps": submits.rps,
        "burst_submit_p99_ms": submits.p99_ms,
        "at_work_submit_rps": at_work.rps,
        "at_work_submit_p99_ms": at_work.p99_ms,
        "burst_tasks_per_s": len(ends) / (ends[-1] - ends[0]),
        "burst_longest_stall_s": max(b - a for a, b in pairwise(ends)),
    }


def _step(stage: Stage, options: argparse.Namespace) -> Mapping[str, float]:
    """Measure a load step on a model at zero: seconds to eight replicas, and back to none."""
    rules = {"min_replicas": 0, "max_replicas": 8, "target_queue_wait_s": 5.0, **_DELAYS}
    with stage.cluster.deploy(models=[paced(0.5, autoscaling=rules, cpus_per_replica=0.1)]) as service:
        began = time.monotonic()
        for _ in range(80):
            service.submit(**{**BODY, "infer_steps": 10})
        _wait_for_replicas(service, "wanted_replicas", 8)
        wanted_s = time.monotonic() - began
        _wait_for_replicas(service, "replicas", 8)
        up_s = time.monotonic() - began
        drain(service)
        ended = time.monotonic()
        _wait_for_replicas(service, "wanted_replicas", 0)
        down_s = time.monotonic() - ended
    return {
        "step_eight_wanted_s": wanted_s,
        "step_eight_up_s": up_s,
        "step_zero_wanted_s": down_s,
        "step_delays_down_s": _DELAYS["downscale_delay_s"] + _DELAYS["downscale_to_zero_delay_s"],
    }


Part = Callable[[Stage, argparse.Namespace], Mapping[str, float]]
PARTS: Mapping[str, Part] = {
    "short": _short,
    "many": _many,
    "limit": _limit,
    "alone": alone,
    "fleet": fleet,
    "burst": _burst,
    "step": _step,
}


def _wait_for_replicas(service: Service, which: str, count: int) -> None:
    def found() -> Any:
        return service.get("/v1/service/status")["models"]["paced"][which]

    wait_for(lambda: found() == count, DEADLINE_S, lambda: f"{which}: {found()}")
