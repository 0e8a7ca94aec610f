"""The drill of many nodes: nodes are lost, drained and added again under load, and so is the head."""

import asyncio
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from threading import Event
from typing import Any

from testbed.cluster import Node, paced
from testbed.drill.client import Work
from testbed.drill.drill import SETTINGS, Drill, DrillPlan, Outcome
from testbed.many_nodes import ManyNodes
from testbed.redis_server import program

GPUS = 2
NOTICE_S = 6.0
"""Seconds that a node is given before it goes."""
HEADLESS_S = 5.0
_STEPS = (40, 160)
_RULES = {"lease_s": 6.0, "heartbeat_s": 0.5, "max_attempts": 10, "checkpoint_every_s": 1.0}
"""A run takes from two seconds to eight, so that many are lost behind a checkpoint."""


@dataclass(frozen=True)
class NodesOutcome(Outcome):
    """The outcome of a drill of many nodes."""

    steps: int
    """Denoise steps of all runs, the warm-ups apart."""
    steps_again: int
    """Those among them that had been done before, in an attempt that was lost."""

    def as_json(self) -> dict[str, Any]:
        """Return the figures by name."""
        return {**super().as_json(), "steps": self.steps, "steps again": self.steps_again}


class NodeLosses:
    """Strikes nodes, one at a time; another one comes in the place of each that goes."""

    def __init__(self, nodes: ManyNodes, random: Random, *, most: int) -> None:
        """``most``: how many nodes there are to be."""
        self._nodes = nodes
        self._random = random
        self._most = most
        self._there: list[Node] = []
        self.struck: Counter[str] = Counter()

    def fill(self) -> None:
        """Add the nodes with GPUs that are missing; one that does not come up is left for the next time."""
        for _ in range(self._most - len(self._there)):
            try:
                self._there.append(self._nodes.add("gpu", num_cpus=4, num_gpus=GPUS))
            except Exception as error:
                print(f"a node did not come up: {error!r}", file=sys.stderr, flush=True)

    def strike(self) -> bool:
        """Strike one node; return whether there was one."""
        self.fill()
        if not self._there:
            return False
        kinds = {"node lost": 4, "raylet killed": 3, "node drained": 4, "head killed": 1}
        (kind,) = self._random.choices([*kinds], [*kinds.values()])
        self.struck[kind] += 1
        print(f"{time.strftime('%H:%M:%S')} {kind} …", file=sys.stderr, flush=True)
        if kind == "head killed":
            self._nodes.kill_head()
            Event().wait(HEADLESS_S)  # the fault itself: the service goes on without
            self._nodes.start_head()
            return True
        node = self._there.pop(self._random.randrange(len(self._there)))
        if kind == "raylet killed":
            node.kill_raylet()
        elif kind == "node drained":
            node.drain(NOTICE_S)
            Event().wait(NOTICE_S)
        node.lose()
        self.fill()
        return True


def drill_nodes(plan: DrillPlan, folder: Path, *, gpu_nodes: int) -> NodesOutcome:
    """Start a cluster of a head, a front node and ``gpu_nodes`` in ``folder``, drill it and end it.

    Two models share its GPUs: one with a GPU a replica, and one whose replicas are groups on two nodes.
    """
    found = program()
    assert found is not None, "Redis's server is not installed"
    steps = folder / "steps"
    options = {"step_s": 0.05, "steps": str(steps)}
    models = [
        paced(0.05, replicas=gpu_nodes, options=options, cpus_per_replica=0.5),
        paced(
            0.05,
            name="group",
            replicas=2,
            devices_per_replica=2,
            nodes_per_replica=2,
            device="cpu",
            cpus_per_replica=0.9,
            options=options,
        ),
    ]
    with ManyNodes(folder, found) as nodes:
        losses = NodeLosses(nodes, Random(plan.seed), most=gpu_nodes)
        losses.fill()
        service = nodes.deploy(models=models, tasks=_RULES, **SETTINGS)
        drilling = Drill(plan, lambda: service.url, losses, Work(_STEPS, ("paced", "group"), uploads=True))
        verdict = asyncio.run(drilling.run())
    done = steps_by_run(steps)
    again = sum(len(each) - len(set(each)) for each in done)
    return NodesOutcome(verdict, dict(losses.struck), sum(map(len, done)), again)


def steps_by_run(steps: Path) -> list[list[int]]:
    """Return the steps done of each task, by its seed; a warm-up has one step, and no task has so few."""
    done: dict[str, list[int]] = {}
    for line in steps.read_text().splitlines():
        _, step, seed = line.split()
        done.setdefault(seed, []).append(int(step))
    return [each for each in done.values() if set(each) != {1}]
