"""The rank processes of the groups that run on the testbed's cluster."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import ray
from ray.util import placement_group, remove_placement_group

from models.engine import EngineSettings
from serve_app.config.model_settings import ModelSettings
from serve_app.config.placement import Placement
from serve_app.config.tracing_settings import TracingSettings
from serve_app.replica.rank_group import RankGroup
from testbed.service import wait_for

READY_S = GONE_S = 240
"""Bounds for what hangs, not for what is slow."""


@contextmanager
def group_of(
    model: dict[str, Any],
    *,
    ranks: int = 2,
    nodes: int = 1,
    gpus: int = 0,
    timeout_s: float = 60,
    tracing: TracingSettings | None = None,
) -> Iterator[RankGroup]:
    """Start a group as a replica does, commanded by the test itself; its engine runs on the CPU."""
    cpus = 0.1
    placement = Placement(replicas=1, device="cpu", gpus=gpus, cpus=cpus, threads=1, ranks=ranks, nodes=nodes)
    bundles = placement_group(placement.bundles, strategy=placement.strategy)
    ray.get(bundles.ready(), timeout=READY_S)
    settings = ModelSettings(**model, devices_per_replica=ranks, nodes_per_replica=nodes)
    engine = EngineSettings(settings.spec, settings.weights, threads=1, options=settings.options)
    group = RankGroup(settings, engine, placement, bundles, timeout_s, tracing)
    try:
        group.watch()
        yield group
    finally:
        group.end()
        remove_placement_group(bundles)


def rank_pids() -> set[int]:
    """Return the pids of all ranks under this process: Ray's workers carry their job as their name."""
    return {
        process.pid
        for process in psutil.Process().children(recursive=True)
        if any("ray::Rank" in part for part in _command(process))
    }


def assert_gone(pids: set[int]) -> None:
    """Wait until none of these processes is left."""
    wait_for(lambda: not any(map(_lives, pids)), GONE_S, lambda: f"left behind: {set(filter(_lives, pids))}")


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
