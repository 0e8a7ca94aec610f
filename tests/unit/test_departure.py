"""When a run leaves: the deadline of its node against its own pace, and what the coordinator asks for."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from models.engine import Generation
from models.tuning import StepShares
from serve_app.coordinator.hand_backs import PATIENCE_S, HandBacks
from serve_app.files.local_artifacts import LocalArtifacts
from serve_app.files.output_paths import OutputPaths
from serve_app.replica.departure import Departure
from serve_app.replica.node_drain import NodeDrain
from serve_app.replica.run import Outcome
from serve_app.replica.run_progress import RunProgress
from testbed.paced_engine import PacedEngine
from tests.unit.run_stage import DEADLINE_S, SPEC, TASK, Attentive, Coordinator, run

MARGIN_S = 5.0
STEP_S = 10.0


class Clock:
    """A clock that stands still, for the progress of a run and its departure alike."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("serve_app.replica.run_progress.time.monotonic", self)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def progress(clock: Clock) -> RunProgress:
    """A run of ten steps of ten seconds, of which two are done; the decode counts as one more."""
    progress = RunProgress(replace(SPEC, steps=10))
    progress.begin()
    progress.prepared()
    for step in (1, 2):
        clock.now += STEP_S
        progress.stepped(step, 10)
    return progress


def test_a_run_leaves_at_the_last_step_that_fits_before_the_deadline(
    clock: Clock, progress: RunProgress
) -> None:
    departure = Departure(progress, lambda: 1070.0, MARGIN_S, clock=clock)
    due, late = [], []
    for now in range(1020, 1071):
        clock.now = now
        due.append(departure.is_due)
        late.append(departure.is_late)
    assert 1020 + due.index(True) == 1070 - MARGIN_S - STEP_S
    assert due == sorted(due) and late == sorted(late)
    assert 1070 - MARGIN_S < 1020 + late.index(True) < 1070


def test_steps_that_cost_less_are_expected_to_take_less_time(clock: Clock) -> None:
    spec = replace(SPEC, steps=10, guidance_scale=5.0)
    progress = RunProgress(spec, shares=StepShares(unguided=0.4))
    progress.begin()
    progress.prepared()
    for step in range(1, 11):
        clock.now += STEP_S if step <= 6 else STEP_S / 2
        progress.stepped(step, 10)
        assert progress.step_s == STEP_S
        left_s = STEP_S * (max(6 - step, 0) + min(10 - step, 4) / 2 + 1)
        assert progress.rest_s == left_s
        assert progress.position.progress == pytest.approx(1 - left_s / (9 * STEP_S))
    small = RunProgress(spec, shares=StepShares(low_resolution=0.4))
    small.prepared()
    for step, passes in enumerate([*[0.5] * 4, *[2] * 6], start=1):
        clock.now += STEP_S * passes / 2
        small.stepped(step, 10)
        assert small.step_s == STEP_S
    plain = RunProgress(replace(spec, guidance_scale=1.0), shares=StepShares(unguided=0.4))
    plain.stepped(5, 10)
    assert plain.position.progress == 5 / 11


def test_a_run_that_ends_in_time_by_its_own_pace_stays(clock: Clock, progress: RunProgress) -> None:
    rest_s = 9 * STEP_S
    departure = Departure(progress, lambda: clock.now + MARGIN_S + rest_s, MARGIN_S, clock=clock)
    assert progress.rest_s == rest_s and not departure.is_due
    for step in range(3, 11):
        clock.now += STEP_S
        progress.stepped(step, 10)
    clock.now += STEP_S / 2
    progress.wrote(SPEC.num_frames // 2)  # the step that a decode counts as is half done
    deadline = clock.now + MARGIN_S + 0.8 * STEP_S
    assert not Departure(progress, lambda: deadline, MARGIN_S, clock=clock).is_due


def test_a_run_leaves_when_it_is_asked_and_stays_without_a_deadline(
    clock: Clock, progress: RunProgress
) -> None:
    departure = Departure(progress, lambda: None, MARGIN_S, clock=clock)
    assert (departure.is_due, departure.is_late) == (False, False)
    departure.is_asked = True
    assert (departure.is_due, departure.is_late) == (True, False)


async def test_a_replica_goes_when_its_own_node_does() -> None:
    at_ms = int(1000 * time.time())
    draining = {"other": at_ms + 1_000}
    drain = NodeDrain("mine", lambda: draining)
    for deadline in (None, 0):
        draining |= {} if deadline is None else {"mine": deadline}  # a drain without a deadline
        await drain.look()
        assert drain.deadline is None
    draining["mine"] = at_ms + 60_000
    await drain.look()
    assert drain.deadline == pytest.approx(time.monotonic() + 60, abs=30)
    del draining["mine"]
    await drain.look()
    assert (drain.deadline, drain.is_elsewhere) == (None, False)


async def test_a_group_goes_when_the_node_of_a_rank_does_and_serve_is_not_told() -> None:
    at_ms = int(1000 * time.time())
    draining = {"ranks": at_ms + 30_000}
    drain = NodeDrain("mine", lambda: draining)
    drain.add(["mine", "ranks"])
    await drain.look()
    assert drain.deadline == pytest.approx(time.monotonic() + 30, abs=15) and drain.is_elsewhere
    draining["mine"] = at_ms + 60_000
    await drain.look()
    assert drain.deadline == pytest.approx(time.monotonic() + 30, abs=15) and not drain.is_elsewhere


async def test_a_look_that_fails_leaves_what_is_known() -> None:
    answers = iter([{"mine": int(1000 * (time.time() + 60))}])
    looked = threading.Event()

    def ask() -> dict[str, int]:
        try:
            return next(answers)
        except StopIteration:
            looked.set()
            raise RuntimeError("Ray is away") from None

    drain = NodeDrain("mine", ask)
    watching = asyncio.create_task(drain.watch(0.001))
    assert await asyncio.to_thread(looked.wait, DEADLINE_S)
    assert drain.deadline is not None and not watching.done()
    watching.cancel()


@pytest.fixture
def artifacts(tmp_path: Path) -> LocalArtifacts:
    return LocalArtifacts(OutputPaths(tmp_path / "outputs"), tmp_path)


async def test_a_run_that_is_wanted_back_is_handed_back_between_two_steps(artifacts: LocalArtifacts) -> None:
    coordinator = Coordinator(wants_back=True)
    with ThreadPoolExecutor(1) as thread, ThreadPoolExecutor(1) as files:
        task = run(artifacts, coordinator, engine=Attentive(coordinator), task=TASK)
        assert await task.finish(await task.generate(thread, files), files) is Outcome.LEFT
    assert coordinator.handed_back == [TASK.attempt]
    assert (coordinator.published, coordinator.failures) == ([], [])
    assert not any(artifacts.attempt_path("u1", 2).parent.iterdir())


async def test_a_run_in_a_long_step_is_handed_back_before_its_node_goes(artifacts: LocalArtifacts) -> None:
    coordinator, released = Coordinator(), threading.Event()

    class Stuck(PacedEngine):
        def denoise_step(self, generation: Generation) -> None:
            assert released.wait(DEADLINE_S)
            super().denoise_step(generation)

    with ThreadPoolExecutor(1) as thread, ThreadPoolExecutor(1) as files:
        task = run(artifacts, coordinator, engine=Stuck(0), deadline=lambda: time.monotonic() + 1)
        generating = asyncio.create_task(task.generate(thread, files))
        async with asyncio.timeout(DEADLINE_S):
            while not coordinator.handed_back:
                await asyncio.sleep(0.001)
        released.set()
        assert await task.finish(await generating, files) is Outcome.LEFT
    assert set(coordinator.handed_back) == {TASK.attempt}


async def test_a_runner_that_does_not_answer_has_its_task_taken() -> None:
    taken: list[tuple[str, int]] = []
    clock = iter([0.0, PATIENCE_S - 0.1, PATIENCE_S])

    async def take(uid: str, attempt: int) -> None:
        taken.append((uid, attempt))

    hand_backs = HandBacks(take, runs_are_kept=True, clock=lambda: next(clock))
    assert not hand_backs.is_wanted("u1", 2)
    for _ in range(2):
        await hand_backs.want("u1", 2)
    assert hand_backs.is_wanted("u1", 2) and not hand_backs.is_wanted("u1", 3)
    assert taken == []
    await hand_backs.want("u1", 2)
    assert taken == [("u1", 2)]


async def test_where_runners_keep_nothing_tasks_are_taken_at_once() -> None:
    taken: list[str] = []

    async def take(uid: str, attempt: int) -> None:
        taken.append(uid)

    await HandBacks(take, runs_are_kept=False).want("u1", 2)
    assert taken == ["u1"]
