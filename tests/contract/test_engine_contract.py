"""The engine contract, kept by every engine: the real one, a group of ranks, and the paced fake."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import pytest

from models import loading
from models.engine import Engine, EngineSettings, Frames, Generation, GenerationRequest, Snapshot
from models.errors import InvalidRequest, ModelError
from models.generate import generate
from models.phase import Phase
from models.pixel_format import PixelFormat
from models.variants import VARIANTS
from models.video_spec import LoraUse
from testbed import paced_engine

RGB, YUV = PixelFormat.RGB24, PixelFormat.YUV420P
WEIGHTS = Path(__file__).resolve().parents[2] / "models" / "demo" / "weights"

REQUEST = GenerationRequest(
    prompt="a red cat on the beach",
    negative_prompt="blurry",
    width=64,
    height=32,
    num_frames=9,
    fps=16,
    steps=3,
    guidance_scale=4.0,
    flow_shift=5.0,
    seed=1,
)


@contextmanager
def wan_engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    yield loading.load_engine(EngineSettings(VARIANTS["demo"], WEIGHTS))


@contextmanager
def paced(request: pytest.FixtureRequest) -> Iterator[Engine]:
    yield paced_engine.load_engine(EngineSettings(VARIANTS["demo"], WEIGHTS, options={"step_s": 0.0}))


@contextmanager
def rank_group(request: pytest.FixtureRequest) -> Iterator[Engine]:
    yield request.getfixturevalue("demo_pair")


@pytest.fixture(
    scope="module", params=[wan_engine, paced, pytest.param(rank_group, marks=pytest.mark.cluster)]
)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with request.param(request) as engine:
        yield engine


def video(engine: Engine, request: GenerationRequest) -> Frames:
    return np.concatenate(list(generate(engine, request)))


def test_each_step_counts_up_by_one_to_the_steps_of_the_request(engine: Engine) -> None:
    generation = engine.prepare(REQUEST)
    steps = [generation.step]
    while generation.step < generation.total_steps:
        engine.denoise_step(generation)
        steps.append(generation.step)
    assert generation.total_steps == REQUEST.steps
    assert steps == [0, 1, 2, 3]


def test_a_generation_carries_its_request(engine: Engine) -> None:
    assert engine.prepare(REQUEST).request == REQUEST


@pytest.mark.parametrize(
    ("loras", "field"),
    [
        ((LoraUse("a"), LoraUse("b"), LoraUse("a", 0.5)), "loras[2].name"),
        ((LoraUse("a"), LoraUse("b", 10.5)), "loras[1].strength"),
        ((LoraUse("a", 1.0, float("nan")),), "loras[0].strength_low"),
        (tuple(LoraUse(str(number)) for number in range(9)), "loras"),
    ],
)
def test_loras_that_no_engine_takes_are_refused(
    engine: Engine, loras: tuple[LoraUse, ...], field: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        engine.prepare(replace(REQUEST, loras=loras))
    assert refused.value.field == field


def test_a_run_tells_in_every_fragment_what_of_its_prompt_was_not_read(engine: Engine) -> None:
    told: list[tuple[str, ...]] = []
    for prompt in ("a red ball", "a red ball [[note]]"):  # the demo model was trained on no notes
        request = replace(REQUEST, prompt=prompt, negative_prompt="", steps=1, num_fragments=2)
        list(generate(engine, request, on_prepared=lambda run: told.append(run.notes)))
    assert told[:2] == [(), ()]
    assert told[2] == told[3] and [note.startswith("The prompt ") for note in told[2]] == [True]


def test_a_step_beyond_the_last_is_an_error(engine: Engine) -> None:
    generation = engine.prepare(REQUEST)
    for _ in range(REQUEST.steps):
        engine.denoise_step(generation)
    with pytest.raises(ModelError):
        engine.denoise_step(generation)
    assert generation.step == REQUEST.steps


def test_decoding_before_the_last_step_is_an_error_at_the_call(engine: Engine) -> None:
    generation = engine.prepare(REQUEST)
    engine.denoise_step(generation)
    with pytest.raises(ModelError):
        engine.decode(generation)


@pytest.mark.parametrize(
    ("num_frames", "form"), [(1, RGB), (5, RGB), (9, RGB), (9, YUV)], ids=lambda value: str(value)
)
def test_decoding_yields_every_frame_as_contiguous_bytes(
    engine: Engine, num_frames: int, form: PixelFormat
) -> None:
    request = replace(REQUEST, num_frames=num_frames, steps=1)
    chunks = list(generate(engine, request, pixel_format=form))
    assert sum(len(chunk) for chunk in chunks) == num_frames
    for chunk in chunks:
        assert chunk.dtype == np.uint8
        assert chunk.shape[1:] == form.frame_shape(REQUEST.width, REQUEST.height)
        assert chunk.flags.c_contiguous


def test_the_same_seed_gives_the_same_bytes(engine: Engine) -> None:
    assert np.array_equal(video(engine, REQUEST), video(engine, REQUEST))


def test_another_seed_gives_another_video(engine: Engine) -> None:
    assert not np.array_equal(video(engine, REQUEST), video(engine, replace(REQUEST, seed=2)))


def test_a_video_moves(engine: Engine) -> None:
    frames = video(engine, REQUEST)
    assert not np.array_equal(frames[0], frames[-1])


def test_progress_is_told_after_each_step(engine: Engine) -> None:
    told: list[tuple[int, int]] = []
    list(generate(engine, REQUEST, on_step=lambda done, total: told.append((done, total))))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_phases_are_told_in_the_order_of_every_fragment(engine: Engine) -> None:
    told: list[Phase] = []
    list(generate(engine, replace(REQUEST, num_fragments=2, steps=1), on_phase=told.append))
    stages = [phase for phase in told if not phase.startswith("encoding")]
    assert [phase for phase, _ in groupby(stages)] == [Phase.PREPARING, Phase.DENOISING, Phase.DECODING] * 2
    assert told.count(Phase.ENCODING_TEXT) == 2


def test_fragments_follow_each_other_without_a_repeated_frame(engine: Engine) -> None:
    request = replace(REQUEST, num_fragments=3)
    told: list[tuple[int, int]] = []
    frames = np.concatenate(list(generate(engine, request, lambda done, total: told.append((done, total)))))
    assert len(frames) == VARIANTS["demo"].video_frames(REQUEST.num_frames, 3) == 25
    assert told == [(step, 9) for step in range(1, 10)]
    assert not any(np.array_equal(one, next_) for one, next_ in pairwise(frames))


def test_a_run_says_which_fragment_it_makes(engine: Engine) -> None:
    request = replace(REQUEST, num_fragments=2, steps=1)
    first = engine.prepare(request)
    engine.denoise_step(first)
    list(engine.decode(first))
    assert (first.fragment, engine.prepare(request, after=first).fragment) == (0, 1)


def test_a_fragment_follows_only_a_decoded_one_and_never_the_last(engine: Engine) -> None:
    request = replace(REQUEST, num_fragments=2, steps=1)
    first = engine.prepare(request)
    engine.denoise_step(first)
    with pytest.raises(ModelError):
        engine.prepare(request, after=first)
    list(engine.decode(first))
    second = engine.prepare(request, after=first)
    engine.denoise_step(second)
    list(engine.decode(second))
    with pytest.raises(ModelError):
        engine.prepare(request, after=second)


def test_a_run_that_is_cut_short_is_decoded_as_it_is_then_and_leaves_the_next_as_it_was(
    engine: Engine,
) -> None:
    alone = video(engine, REQUEST)
    generation = engine.prepare(REQUEST)
    with pytest.raises(ModelError):
        engine.cut_short(generation)
    engine.denoise_step(generation)
    engine.cut_short(generation)
    assert generation.total_steps == generation.step == 1
    with pytest.raises(ModelError):
        engine.denoise_step(generation)
    assert np.concatenate(list(engine.decode(generation))).shape == alone.shape
    assert np.array_equal(video(engine, REQUEST), alone)


def test_generation_ends_with_the_fragment_in_which_it_is_enough(engine: Engine) -> None:
    request = replace(REQUEST, num_fragments=3)
    steps: list[int] = []
    enough = REQUEST.steps + 1
    frames = generate(
        engine, request, lambda done, _: steps.append(done), is_enough=lambda: len(steps) >= enough
    )
    one = REQUEST.num_frames
    assert one < sum(map(len, frames)) < 2 * one + 1
    assert steps == list(range(1, enough + 1))


def test_a_run_goes_on_from_its_snapshots_to_the_same_bytes(engine: Engine) -> None:
    request = replace(REQUEST, num_fragments=2)
    run: list[Generation] = []
    kept: dict[tuple[int, int], Snapshot] = {}

    def keep(done: int, total: int) -> None:
        pending = engine.snapshot(run[-1])
        assert pending is not None
        snapshot = kept[run[-1].fragment, run[-1].step] = pending()
        assert (snapshot.fragment, snapshot.step) == (run[-1].fragment, run[-1].step)

    whole = np.concatenate(list(generate(engine, request, keep, on_prepared=run.append)))
    assert kept.keys() == {(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)}
    for snapshots in ({0: kept[0, 2]}, {0: kept[0, 3], 1: kept[1, 1]}, {0: kept[0, 3], 1: kept[1, 3]}):
        at: list[int] = []
        frames = generate(
            engine,
            request,
            lambda done, _: at.append(done),  # noqa: B023  # called before the next turn
            snapshots=snapshots,
        )
        assert np.array_equal(np.concatenate(list(frames)), whole)
        newest = snapshots[max(snapshots)]
        done = newest.fragment * REQUEST.steps + newest.step
        assert at == list(range(done + 1, 7))


def test_a_run_that_is_cut_short_has_no_snapshot(engine: Engine) -> None:
    generation = engine.prepare(REQUEST)
    engine.denoise_step(generation)
    engine.cut_short(generation)
    assert engine.snapshot(generation) is None


def test_a_snapshot_of_another_run_is_refused(engine: Engine) -> None:
    generation = engine.prepare(REQUEST)
    engine.denoise_step(generation)
    pending = engine.snapshot(generation)
    assert pending is not None
    with pytest.raises(ModelError):  # the run is not new
        engine.restore(generation, pending())
    with pytest.raises(ModelError):  # the schedule is another one
        engine.restore(engine.prepare(replace(REQUEST, steps=4)), pending())
    with pytest.raises(ModelError):
        engine.restore(engine.prepare(REQUEST), replace(pending(), fragment=1))
    assert len(video(engine, REQUEST)) == REQUEST.num_frames


@pytest.mark.slow
def test_a_preview_is_a_few_small_pictures_and_changes_nothing(engine: Engine) -> None:
    alone = video(engine, REQUEST)
    generation = engine.prepare(REQUEST)
    while generation.step < generation.total_steps:
        preview = engine.preview(generation)
        assert preview.dtype == np.uint8
        stride = VARIANTS["demo"].spatial_stride
        assert preview.shape[1:] == (REQUEST.height // stride, REQUEST.width // stride, 3)
        engine.denoise_step(generation)
    assert np.array_equal(np.concatenate(list(engine.decode(generation))), alone)


def test_an_abandoned_run_leaves_the_engine_as_it_was(engine: Engine) -> None:
    alone = video(engine, REQUEST)
    abandoned = engine.prepare(replace(REQUEST, seed=9, prompt="something else"))
    engine.denoise_step(abandoned)
    assert np.array_equal(video(engine, REQUEST), alone)


def test_a_decode_left_half_way_leaves_the_engine_as_it_was(engine: Engine) -> None:
    alone = video(engine, REQUEST)
    next(generate(engine, replace(REQUEST, seed=9)))
    assert np.array_equal(video(engine, REQUEST), alone)


def test_an_invalid_request_names_its_field_and_leaves_the_engine_usable(engine: Engine) -> None:
    with pytest.raises(InvalidRequest) as caught:
        # the one refuses the prompt, the other the size
        engine.prepare(replace(REQUEST, prompt="[[prepare-error]]", width=50))
    assert caught.value.field in {"prompt", "width"}
    assert len(video(engine, REQUEST)) == REQUEST.num_frames


def test_a_run_of_another_engine_is_refused(engine: Engine) -> None:
    class Stranger:
        request = REQUEST
        fragment = 0
        step = 0
        total_steps = 3
        notes = ()

    with pytest.raises(ModelError):
        engine.denoise_step(Stranger())
    with pytest.raises(ModelError):
        engine.decode(Stranger())
    with pytest.raises(ModelError):
        engine.prepare(REQUEST, after=Stranger())
