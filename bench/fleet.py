"""What many replicas ask of one coordinator: its processor time, and how long they wait for its answers."""

import argparse
import asyncio
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from bench.stage import DEADLINE_S, Stage, drain, submit
from testbed.service import Service, wait_for

_PROCESSES = 4
_RUN_S = 60.0
_REPORTS = 59
"""One a second."""
_SETTLE_S = 5.0


@dataclass(frozen=True, slots=True)
class Load:
    """What a process did between two times."""

    seconds: float
    processor_s: float

    @property
    def core_pct(self) -> float:
        """Its part of one core, in percent."""
        return 100 * self.processor_s / self.seconds


def fleet(stage: Stage, options: argparse.Namespace) -> Mapping[str, float]:
    """Measure ``options.replicas`` slots with runs of a minute, each of which reports once a second."""
    replicas = options.replicas
    with stage.deploy(_PROCESSES, replicas // _PROCESSES, _RUN_S, _REPORTS) as service:
        asyncio.run(submit(service, int(replicas * (1 + (options.seconds + 6 * _SETTLE_S) / _RUN_S))))
        stage.open_gate()
        wait_for(lambda: _active(service) >= 0.95 * replicas, DEADLINE_S, lambda: f"{_active(service)} run")
        time.sleep(_SETTLE_S)
        since = time.monotonic()
        (load,) = _during(options.seconds, _pids(service, "coordinator"))
        calls = stage.calls(since, since + load.seconds)
        httpx.delete(f"{service.url}/v1/tasks/all/running", timeout=60).raise_for_status()
    return {
        "fleet_replicas": replicas,
        "fleet_coordinator_core_pct": load.core_pct,
        **{f"fleet_{kind}_calls_per_s": len(took) / load.seconds for kind, took in calls.items()},
        **{f"fleet_{kind}_p99_ms": 1000 * took[int(0.99 * (len(took) - 1))] for kind, took in calls.items()},
    }


def alone(stage: Stage, options: argparse.Namespace) -> Mapping[str, float]:
    """Measure slots that hold nothing, with a core for the coordinator alone and the others for all else."""
    with stage.deploy(processes=_PROCESSES, slots=16, seconds=0.0) as service:
        asyncio.run(submit(service, 150 * options.seconds))
        coordinator, slots = _pids(service, "coordinator"), _pids(service, "model-paced")
        with _apart(coordinator):
            stage.open_gate()
            wait_for(lambda: bool(stage.runs()), DEADLINE_S, lambda: "nothing is claimed")
            since = time.monotonic()
            own, *others = _during(options.seconds / 2, [*coordinator, *slots])
            calls = stage.calls(since, since + own.seconds)
            drain(service)
    return {
        **{f"alone_{kind}_calls_per_s": len(took) / own.seconds for kind, took in calls.items()},
        "alone_coordinator_core_pct": own.core_pct,
        "alone_slots_core_pct": sum(load.core_pct for load in others),
        "alone_ms_of_coordinator_a_call": 1000 * own.processor_s / sum(map(len, calls.values())),
    }


def _active(service: Service) -> int:
    return int(service.get("/v1/tasks/queue/status")["active_count"])


def _pids(service: Service, deployment: str) -> Sequence[int]:
    return list(service.replica_pids(deployment).values())


def _during(seconds: float, pids: Sequence[int]) -> Sequence[Load]:
    """Wait so long, and return the load of each process meanwhile."""
    began, before = time.monotonic(), [_processor_s(pid) for pid in pids]
    time.sleep(seconds)
    passed = time.monotonic() - began
    return [Load(passed, _processor_s(pid) - was) for pid, was in zip(pids, before, strict=True)]


def _processor_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


@contextmanager
def _apart(pids: Sequence[int]) -> Iterator[None]:
    """Give the last core to these processes, and the others to all else of the cluster and to this one."""
    *others, own = sorted(os.sched_getaffinity(0))
    family = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    if not others:
        raise RuntimeError("there is one core alone")
    try:
        _pin(family.difference(pids), others)
        _pin(pids, [own])
        yield
    finally:
        _pin(family, [*others, own])


def _pin(pids: Iterable[int], cores: Sequence[int]) -> None:
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").glob("*"):
            try:
                os.sched_setaffinity(int(thread.name), cores)
            except ProcessLookupError:  # it has ended meanwhile
                continue
