"""The policy under Serve's own bounds and delays, in simulated time: no flapping, no overshoot."""

import math
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.serve.autoscaling_policy import _apply_default_params
from ray.serve.config import AutoscalingConfig

from serve_app import scaling_policy
from serve_app.coordinator.estimate import Backlog, BusyReplicas
from serve_app.scaling_policy import figures, policy

MODEL = "model-demo"
RULES: dict[str, Any] = {"upscale_delay_s": 3.0, "downscale_delay_s": 60.0, "downscale_to_zero_delay_s": 90.0}
TARGET_S = 30.0
TICK_S = 0.5


def coordinator(said: dict[str, float]) -> Any:
    points = {
        name: {"replica": [SimpleNamespace(value=-1.0), SimpleNamespace(value=said[name])]} for name in said
    }
    return SimpleNamespace(deployment_name="coordinator", raw_metrics=points)


def model(name: str = MODEL, *, target: int = 1, current: int | None = None, requests: float = 0.0) -> Any:
    return SimpleNamespace(
        deployment_name=name,
        target_num_replicas=target,
        current_num_replicas=target if current is None else current,
        total_num_requests=requests,
        config=SimpleNamespace(target_ongoing_requests=1.0),
        raw_metrics={},
    )


def decide(said: dict[str, float], **of_model: Any) -> float | None:
    contexts = {"c": coordinator(said), "m": model(**of_model)}
    return policy(contexts)[0].get("m")


def test_the_policy_wants_the_replicas_that_are_needed() -> None:
    assert decide({**figures(MODEL, 5, 0)}, target=2) == 5


def test_the_kept_figure_holds_replicas_and_never_starts_one() -> None:
    assert decide({**figures(MODEL, 1, 9)}, target=4) == 4
    assert decide({**figures(MODEL, 1, 3)}, target=4) == 3


def test_a_model_without_figures_scales_by_its_requests() -> None:
    said = {**figures("model-other", 5, 0)}
    assert decide(said, target=2, requests=6.0) == 6
    assert decide(said, target=1, current=0, requests=0.0) == 1
    assert policy({"m": model(requests=3.0)})[0] == {"m": 3.0}


def test_while_the_coordinator_is_silent_nothing_changes() -> None:
    assert policy({"c": coordinator({}), "m": model(requests=6.0)}) == ({}, {})


def test_the_coordinator_itself_is_not_scaled() -> None:
    assert set(policy({"c": coordinator({**figures(MODEL, 1, 0)}), "m": model()})[0]) == {"m"}


def test_the_policy_travels_by_value_and_alone() -> None:
    cloudpickle.register_pickle_by_value(scaling_policy)
    try:
        packed = cloudpickle.dumps(policy)
    finally:
        cloudpickle.unregister_pickle_by_value(scaling_policy)
    assert b"serve_app.coordinator" not in packed and b"serve_app.config.settings" not in packed
    assert cloudpickle.loads(packed)({"m": model(requests=3.0)})[0] == {"m": 3.0}


@dataclass
class Simulation:
    """A model's queue and replicas in steps of ``TICK_S``, under Serve's own arithmetic."""

    start_s: float
    least: int = 0
    most: int = 8
    now: float = 0.0
    target: int = 0
    queue: deque[float] = field(default_factory=deque)
    running: list[list[float]] = field(default_factory=list)
    """The seconds that are left of each run, and its seconds in all."""
    up: list[float] = field(default_factory=list)
    """The time at which each replica is ready."""
    targets: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.target = self.least
        self.up = [0.0] * self.least
        self.targets = [self.least]
        self.config = AutoscalingConfig(min_replicas=self.least, max_replicas=self.most, **RULES)
        self.busy = BusyReplicas(RULES["downscale_delay_s"])
        self.state: dict[str, Any] = {}

    def run(self, seconds: float, *arrivals: tuple[float, float]) -> None:
        """Simulate so many seconds; each of ``arrivals`` is a period and the seconds of its tasks."""
        end = self.now + seconds
        due = [self.now for _ in arrivals]
        while self.now < end:
            for index, (period_s, task_s) in enumerate(arrivals):
                while due[index] <= self.now:
                    self.queue.append(task_s)
                    due[index] += period_s
            self._work()
            self._scale()
            self.now += TICK_S

    def _work(self) -> None:
        self.running = [[left - TICK_S, whole] for left, whole in self.running if left > TICK_S]
        while self.queue and len(self.running) < sum(ready <= self.now for ready in self.up):
            self.running.append([self.queue[0], self.queue.popleft()])

    def _scale(self) -> None:
        self.busy.sample(self.now, [whole for _, whole in self.running])
        waits_s = sum(min(task_s, TARGET_S) for task_s in self.queue)
        backlog = Backlog(len(self.queue), sum(self.queue), waits_s, tuple(left for left, _ in self.running))
        said = {**figures(MODEL, backlog.needed(TARGET_S), self.busy.kept)}
        wanted = decide(said, target=self.target)
        assert wanted is not None
        self._apply(math.ceil(self._delayed(wanted)))

    def _delayed(self, wanted: float) -> float:
        context = SimpleNamespace(
            current_num_replicas=sum(ready <= self.now for ready in self.up),
            target_num_replicas=self.target,
            config=self.config,
        )
        decided, self.state = _apply_default_params(wanted, context, self.state)  # type: ignore[arg-type]
        return decided

    def _apply(self, decided: int) -> None:
        self.target = max(self.least, min(self.most, decided))
        self.up = self.up[: self.target]
        self.up += [self.now + self.start_s] * (self.target - len(self.up))
        self.targets.append(self.target)

    @property
    def turns(self) -> int:
        """Return how often the number of replicas changed its direction."""
        steps = [b - a for a, b in pairwise(self.targets) if a != b]
        return sum((a > 0) != (b > 0) for a, b in pairwise(steps))


@pytest.fixture(autouse=True)
def simulated_time(monkeypatch: pytest.MonkeyPatch) -> list[Simulation]:
    """Serve's delays read the clock of the simulation under test."""
    shown: list[Simulation] = []
    monkeypatch.setattr("ray.serve.autoscaling_policy.time.time", lambda: shown[-1].now)
    return shown


@pytest.mark.parametrize("start_s", [2.0, 120.0])
@pytest.mark.parametrize(
    ("period_s", "task_s"),
    [(0.9, 5.5), (1.0, 4.0), (1.2, 4.0), (1.6, 5.5), (2.5, 4.0), (7.0, 5.5), (30.0, 100.0), (40.0, 100.0)],
)
def test_a_steady_load_turns_the_number_of_replicas_at_most_once(
    simulated_time: list[Simulation], start_s: float, period_s: float, task_s: float
) -> None:
    scene = Simulation(start_s, least=1)
    simulated_time.append(scene)
    scene.run(3600.0, (period_s, task_s))
    assert scene.turns <= 1
    settled = scene.targets[-1200:]
    assert len(set(settled)) == 1, "it settles"
    assert len(scene.queue) * task_s / settled[-1] <= 2 * TARGET_S


def test_a_single_task_starts_a_single_replica(simulated_time: list[Simulation]) -> None:
    scene = Simulation(start_s=60.0)
    simulated_time.append(scene)
    scene.queue.append(900.0)
    scene.run(1300.0)
    assert max(scene.targets) == 1 and scene.target == 0


def test_a_burst_goes_straight_to_the_bound_and_back_to_zero_within_the_delays(
    simulated_time: list[Simulation],
) -> None:
    scene = Simulation(start_s=20.0)
    simulated_time.append(scene)
    scene.queue.extend([10.0] * 80)
    scene.run(1.0)
    assert scene.target == 8, "from zero there is nothing to wait for"
    scene.run(120.0)
    assert not scene.queue and not scene.running and scene.target == 8
    scene.run(RULES["downscale_delay_s"] + 15.0)
    assert scene.target == 1
    scene.run(RULES["downscale_to_zero_delay_s"] + 5.0)
    assert scene.target == 0 and scene.turns == 1


def test_replicas_that_run_are_not_taken_away(simulated_time: list[Simulation]) -> None:
    scene = Simulation(start_s=1.0)
    simulated_time.append(scene)
    scene.queue.extend([600.0] * 4)
    scene.run(500.0)
    assert set(scene.targets[1:]) == {4}
