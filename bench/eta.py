"""The error of the estimates: the end that a task's status names at its submit, and its actual end.

A steady mixed load on a real Ray cluster of this machine: tasks of several sizes come at random, so many that
the replicas are nearly always busy. The engine takes no processor; a large video takes it longer than its
size alone would make it, as attention does. The first tasks, from which the rates are measured, are left out.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.machine import describe
from testbed.cluster import Cluster, paced
from testbed.service import Service

SIZES: Sequence[Mapping[str, int]] = (
    {"width": 64, "height": 64, "num_frames": 9, "infer_steps": 8},
    {"width": 96, "height": 80, "num_frames": 17, "infer_steps": 8},
    {"width": 128, "height": 64, "num_frames": 33, "infer_steps": 8},
)
"""Sizes of 0.5, 2.3 and 6.2 seconds: by pixels 1 : 3.5 : 7.3, by time 1 : 4.6 : 12."""

_DEADLINE_S = 900


@dataclass(frozen=True, slots=True)
class Estimate:
    """The estimate at the submit of one task, and the actual end, in seconds from the submit."""

    predicted_s: float
    actual_s: float

    @property
    def error(self) -> float:
        """The error as a part of the actual time; above 0 the estimate was too long."""
        return (self.predicted_s - self.actual_s) / self.actual_s


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="scripts/bench eta", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--tasks", type=int, default=90, help="tasks that are measured (default 90)")
    parser.add_argument("--replicas", type=int, default=3, help="of the model (default 3)")
    parser.add_argument("--load", type=float, default=0.95, help="of what they can do (default 0.95)")
    parser.add_argument("--seed", type=int, default=1, help="of the sizes and the gaps between tasks")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder)) as cluster:
        model = paced(
            0.0,
            engine="bench.sized_engine:load_engine",
            options={},
            replicas=options.replicas,
            cpus_per_replica=0.5,
        )
        with cluster.deploy(models=[model]) as service:
            estimates = measure(service, options.tasks, options.replicas, options.load, options.seed)
    figures = summary(estimates)
    print(describe())
    for name, figure in figures.items():
        print(f"{name:<28}{figure:>10.3f}")
    if options.json:
        print(json.dumps({name: round(figure, 4) for name, figure in figures.items()}))
    return 0


def measure(service: Service, tasks: int, replicas: int, load: float, seed: int) -> Sequence[Estimate]:
    """Send the load, then wait until every task has ended."""
    chance = random.Random(seed)
    seconds = [_warm_up(service, size) for size in SIZES]
    gap_s = statistics.mean(seconds) / replicas / load
    _fill(service, chance, 2 * replicas)
    predicted = {}
    for _ in range(tasks):
        task_id = service.submit(**chance.choice(SIZES))
        predicted[task_id] = service.status(task_id)["eta_seconds"]
        time.sleep(chance.expovariate(1 / gap_s))
    ends = {task_id: service.until(task_id, "succeed", deadline_s=_DEADLINE_S) for task_id in predicted}
    return [Estimate(predicted[task_id], _span(ends[task_id])) for task_id in predicted]


def summary(estimates: Sequence[Estimate]) -> Mapping[str, float]:
    """Return the distribution of the errors, in per cent of the actual time."""
    errors = sorted(100 * estimate.error for estimate in estimates)
    within = {part: sum(abs(error) <= part for error in errors) / len(errors) for part in (10, 25, 50)}
    return {
        "tasks": float(len(errors)),
        "actual_s_median": statistics.median(estimate.actual_s for estimate in estimates),
        **{f"within_{part}_pct_share": share for part, share in within.items()},
        **{f"error_pct_p{part}": errors[part * (len(errors) - 1) // 100] for part in (5, 25, 50, 75, 95)},
    }


def _warm_up(service: Service, size: Mapping[str, int]) -> float:
    """Return the seconds of a task that runs alone, by which the service measures its rate too."""
    return min(_span(service.until(service.submit(**size), "succeed")) for _ in range(3))


def _fill(service: Service, chance: random.Random, tasks: int) -> None:
    """Fill the queue, so that the first measured task meets the load that the last one does."""
    for _ in range(tasks):
        service.submit(**chance.choice(SIZES))


def _span(status: Mapping[str, Any]) -> float:
    created, finished = (datetime.fromisoformat(status[key]) for key in ("created_at", "finished_at"))
    return (finished - created).total_seconds()
