"""Checkpoints of a run: when they are made, which of them a later attempt goes on from, and when they go."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from models.engine import EngineSettings, FusedLora, Generation, GenerationRequest, PendingSnapshot
from models.parallel.plan import ParallelPlan
from models.variants import VARIANTS
from models.video_spec import LoraUse
from serve_app.files.local_artifacts import LocalArtifacts
from serve_app.files.output_paths import OutputPaths
from serve_app.replica.checkpoint import Checkpoint, CheckpointError
from serve_app.replica.fingerprints import Fingerprints
from serve_app.replica.run import Outcome
from serve_app.replica.run_checkpoints import RunCheckpoints
from serve_app.tasks.task import Task
from testbed.paced_engine import PacedEngine
from tests.unit.run_stage import DEADLINE_S, SPEC, TASK, Attentive, Coordinator, execute, run

EVERY_S = 60.0
REQUEST = GenerationRequest.from_spec(replace(SPEC, steps=10, num_fragments=2))


@pytest.fixture
def artifacts(tmp_path: Path) -> LocalArtifacts:
    return LocalArtifacts(OutputPaths(tmp_path / "outputs"), tmp_path)


@pytest.fixture
def keeper() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as keeper:
        yield keeper


@dataclass
class Costly(PacedEngine):
    """An engine whose snapshots take time, by a clock that only this class moves."""

    now: float = 0.0
    cost_s: float = 0.0
    is_written: Event = field(default_factory=Event)

    def __post_init__(self) -> None:
        super().__init__(step_s=0)
        self.is_written.set()

    def snapshot(self, generation: Generation) -> PendingSnapshot | None:
        self.now += self.cost_s
        pending = super().snapshot(generation)
        assert pending is not None

        def wait():
            assert self.is_written.wait(DEADLINE_S)
            return pending()

        return wait


class Kept:
    """A run by hand, and the files that it leaves."""

    def __init__(self, artifacts: LocalArtifacts, keeper: ThreadPoolExecutor, **task: object) -> None:
        self.engine = Costly()
        self.artifacts = artifacts
        self.keeper = keeper
        self.fingerprint: Callable[[GenerationRequest], str] = lambda request: "same"
        self.task = replace(TASK, **task)  # type: ignore[arg-type]

    def checkpoints(self) -> RunCheckpoints:
        return RunCheckpoints(
            self.engine,
            self.task,
            self.artifacts,
            self.keeper,
            lambda request: self.fingerprint(request),
            EVERY_S,
            clock=lambda: self.engine.now,
        )

    def step(self, checkpoints: RunCheckpoints, generation: Generation, *, seconds: float = 0.0) -> None:
        self.engine.denoise_step(generation)
        self.engine.now += seconds
        checkpoints.stepped(generation)

    @property
    def names(self) -> set[str]:
        """The files, once all that was to be written is."""
        self.keeper.submit(lambda: None).result(DEADLINE_S)
        return {name.removesuffix(".safetensors") for name in self.artifacts.checkpoints(self.task.uid)}


@pytest.fixture
def kept(artifacts: LocalArtifacts, keeper: ThreadPoolExecutor) -> Kept:
    return Kept(artifacts, keeper, attempt=1)


def test_a_run_is_kept_every_so_often_and_the_newest_of_each_fragment_stays(kept: Kept) -> None:
    checkpoints = kept.checkpoints()
    assert checkpoints.begin(REQUEST) == {}
    first = kept.engine.prepare(REQUEST)
    seen = []
    for _ in range(10):
        kept.step(checkpoints, first, seconds=25.0)
        seen.append(kept.names)
    three, six, nine = {"1-0-3"}, {"1-0-6"}, {"1-0-9"}
    assert seen == [set(), set(), three, three, three, six, six, six, nine, nine]
    list(kept.engine.decode(first))
    second = kept.engine.prepare(REQUEST, first)
    kept.step(checkpoints, second, seconds=25.0)
    kept.step(checkpoints, second, seconds=25.0)
    assert kept.names == {"1-0-10", "1-1-2"}  # the end of the fragment before came with it


def test_a_run_that_ends_before_its_first_checkpoint_leaves_no_file(kept: Kept) -> None:
    checkpoints = kept.checkpoints()
    checkpoints.begin(REQUEST)
    generation = kept.engine.prepare(REQUEST)
    for _ in range(10):
        kept.step(checkpoints, generation, seconds=(EVERY_S - 1) / 10)
    checkpoints.drop()
    assert kept.names == set()


def test_checkpoints_cost_a_hundredth_of_a_run_at_most(kept: Kept) -> None:
    kept.engine.cost_s = 3.0
    checkpoints = kept.checkpoints()
    checkpoints.begin(REQUEST)
    generation = kept.engine.prepare(REQUEST)
    seen = []
    for _ in range(9):
        kept.step(checkpoints, generation, seconds=EVERY_S)
        seen.append(kept.names)
    assert [len(each - before) for before, each in zip([set(), *seen], seen, strict=False)] == [
        1, 0, 0, 0, 0, 1, 0, 0, 0,
    ]  # fmt: skip


def test_no_checkpoint_is_made_while_one_is_written(kept: Kept) -> None:
    checkpoints = kept.checkpoints()
    checkpoints.begin(REQUEST)
    generation = kept.engine.prepare(REQUEST)
    kept.engine.is_written.clear()
    for _ in range(3):
        kept.step(checkpoints, generation, seconds=EVERY_S)
    kept.engine.is_written.set()
    assert kept.names == {"1-0-1"}
    kept.step(checkpoints, generation)
    assert kept.names == {"1-0-4"}


def test_a_run_that_leaves_is_kept_as_it_is_then(kept: Kept) -> None:
    checkpoints = kept.checkpoints()
    checkpoints.begin(REQUEST)
    first = kept.engine.prepare(REQUEST)
    checkpoints.leave(first)
    assert kept.names == set()  # nothing is done
    while first.step < first.total_steps:
        kept.step(checkpoints, first)
    list(kept.engine.decode(first))
    second = kept.engine.prepare(REQUEST, first)
    kept.step(checkpoints, second)
    checkpoints.leave(second)
    assert kept.names == {"1-0-10", "1-1-1"}


def attempted(kept: Kept, attempt: int, steps: int) -> dict[int, int]:
    """Make ``steps`` further steps in another attempt, then leave; return where it went on from."""
    kept.task = replace(kept.task, attempt=attempt)
    checkpoints = kept.checkpoints()
    found = checkpoints.begin(REQUEST)
    generation = None
    for fragment in range(REQUEST.num_fragments):
        generation = kept.engine.prepare(REQUEST, generation)
        if fragment in found:
            kept.engine.restore(generation, found[fragment])
        while generation.step < generation.total_steps and steps:
            kept.step(checkpoints, generation)
            steps -= 1
        if not steps:
            break
        list(kept.engine.decode(generation))
    assert generation is not None
    checkpoints.leave(generation)
    assert kept.names
    return {fragment: snapshot.step for fragment, snapshot in found.items()}


def test_an_attempt_goes_on_from_the_farthest_of_all_attempts_before(kept: Kept) -> None:
    assert attempted(kept, 1, 7) == {}
    assert attempted(kept, 2, 2) == {0: 7}
    assert attempted(kept, 3, 4) == {0: 9}
    assert attempted(kept, 4, 1) == {0: 10, 1: 3}
    assert kept.names == {"1-0-7", "2-0-9", "3-0-10", "3-1-3", "4-1-4"}
    # A fragment follows only the end of the one before.
    kept.artifacts.delete_checkpoint("u1", "3-0-10.safetensors")
    assert {number: end.step for number, end in kept.checkpoints().begin(REQUEST).items()} == {0: 9}


def test_what_is_broken_or_of_another_run_is_passed_over(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    attempted(kept, 1, 7)
    attempted(kept, 2, 2)
    newest = "2-0-9.safetensors"
    whole = kept.artifacts.read_checkpoint("u1", newest)
    with caplog.at_level(logging.CRITICAL):
        for broken in (b"", whole[:40], whole[:-1], b"\x80\x02 a pickle"):
            kept.artifacts.put_checkpoint("u1", newest, broken)
            assert {end.step for end in kept.checkpoints().begin(REQUEST).values()} == {7}
    kept.artifacts.put_checkpoint("u1", "9-0-9.part", whole)
    kept.artifacts.put_checkpoint("u1", newest, whole)
    kept.fingerprint = lambda request: "another"
    assert kept.checkpoints().begin(REQUEST) == {}


def test_a_checkpoint_is_what_was_kept_and_no_pickle() -> None:
    engine = PacedEngine(step_s=0)
    pending = engine.snapshot(engine.prepare(REQUEST))
    assert pending is not None
    arrays = {"latents": np.arange(6, dtype=np.float32).reshape(2, 3), "sigmas": np.array([1.0, 0.5])}
    snapshot = replace(pending(), arrays=arrays)
    data = Checkpoint("abc", snapshot).to_bytes()
    assert b"pickle" not in data and data[8:9] == b"{"
    found = Checkpoint.from_bytes(data)
    assert (found.fingerprint, found.snapshot.fragment, found.snapshot.step) == ("abc", 0, 0)
    for name, array in arrays.items():
        assert found.snapshot.arrays[name].dtype == array.dtype
        assert np.array_equal(found.snapshot.arrays[name], array)
    with pytest.raises(CheckpointError):
        Checkpoint.from_bytes(data[:-1])
    arrays["latents"][1, 2] = np.nan  # of a device at fault
    with pytest.raises(CheckpointError):
        Checkpoint("abc", snapshot).to_bytes()


class Counted(Attentive):
    """An engine that counts its steps."""

    def __init__(self, coordinator: Coordinator) -> None:
        super().__init__(coordinator)
        self.done = 0

    def denoise_step(self, generation: Generation) -> None:
        super().denoise_step(generation)
        self.done += 1


@pytest.mark.parametrize("outcome", [Outcome.PUBLISHED, Outcome.FAILED])
async def test_a_task_that_is_handed_back_goes_on_where_it_was_and_ends_without_checkpoints(
    artifacts: LocalArtifacts, keeper: ThreadPoolExecutor, outcome: Outcome
) -> None:
    spec = replace(SPEC, steps=10)
    if outcome is Outcome.FAILED:
        spec = replace(spec, prompt="[[raise]]")

    async def attempt(coordinator: Coordinator, task: Task, spec=spec) -> tuple[Outcome, int]:
        engine, task = Counted(coordinator), replace(task, spec=spec)
        kept = RunCheckpoints(engine, task, artifacts, keeper, lambda _: "same", EVERY_S)
        with ThreadPoolExecutor(1) as thread:
            ended = await execute(
                run(artifacts, coordinator, engine=engine, task=task, checkpoints=kept), thread
            )
        return ended, engine.done

    back, done = await attempt(Coordinator(wants_back=True), TASK, replace(spec, prompt="a cat"))
    assert back is Outcome.LEFT and 0 < done < 10
    assert artifacts.checkpoints("u1") == [f"2-0-{done}.safetensors"]
    coordinator = Coordinator()
    ended, rest = await attempt(coordinator, TASK)
    assert ended is outcome
    keeper.submit(lambda: None).result(DEADLINE_S)
    assert artifacts.checkpoints("u1") == ()
    if outcome is Outcome.PUBLISHED:
        assert done + rest == 10
        (result,) = coordinator.published
        assert (result.step, result.resumed_step) == (10, done)
        assert result.notes == (f"Attempt 2 went on from step {done} of 10, which an earlier one kept.",)
        assert min(step for step in coordinator.steps if step) >= done  # the begin is told at once, as step 0


def test_a_fingerprint_is_that_of_model_settings_plan_loras_and_request(tmp_path: Path) -> None:
    weights, loras, fused = tmp_path / "weights", tmp_path / "loras", tmp_path / "fused.safetensors"
    for folder in (weights, loras):
        folder.mkdir()
    large = weights / "model.safetensors"
    large.write_bytes(bytes(1 << 20))
    (loras / "style.safetensors").write_bytes(b"style")
    fused.write_bytes(b"fused")
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    settings = EngineSettings(
        VARIANTS["demo"], weights, lora_folder=loras, fused_loras=(FusedLora(fused),), options={"a": 1}
    )
    asked = replace(REQUEST, image=picture, loras=(LoraUse("style"),))

    def of(settings=settings, plan=ParallelPlan(), request=asked) -> str:  # noqa: B008
        return Fingerprints(settings, plan).of(request)

    first = of()
    assert of(request=replace(asked, image=picture.copy())) == first
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    (copy / "model.safetensors").write_bytes(bytes(1 << 20))
    (copy / "README.md").touch()
    assert of(replace(settings, weights=copy, device="cpu")) == first
    others = [
        of(replace(settings, options={"a": 2})),
        of(replace(settings, dtype="bfloat16")),
        of(replace(settings, device="cuda")),
        of(replace(settings, transformer=fused)),
        of(replace(settings, fused_loras=(FusedLora(fused, 0.5),))),
        of(plan=ParallelPlan(ulysses=2)),
        of(request=replace(asked, seed=2)),
        of(request=replace(asked, image=picture + 1)),
        of(request=replace(asked, loras=(LoraUse("style", 0.5),))),
    ]
    (loras / "style.safetensors").write_bytes(b"other")
    others.append(of())
    with large.open("r+b") as file:
        file.seek((1 << 20) - 1)
        file.write(b"x")
    others.append(of())
    assert len({first, *others}) == 1 + len(others)
