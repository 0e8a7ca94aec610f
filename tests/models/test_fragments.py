"""Long videos: fragments that each continue the last one, joined without a repeated frame."""

import gc
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from models.conditioning.conditioner import pixels
from models.engine import Frames, GenerationRequest
from models.errors import InvalidRequest, ModelError
from models.generate import generate
from models.phase import Phase
from models.pipeline.generation import WanGeneration
from models.pipeline.wan_engine import WanEngine
from models.pixel_format import PixelFormat

from .conftest import REQUEST, SMALL, Model, build_model, picture, remade

LONG = replace(REQUEST, num_frames=13, steps=3, num_fragments=3)
FIRST = picture(REQUEST.width, REQUEST.height)


@pytest.fixture(scope="module")
def t2v_only() -> Model:
    model = build_model(expand_timesteps=False)
    variant = replace(model.engine.variant, tasks=frozenset({"t2v"}))
    return replace(model, engine=remade(model.engine, variant=variant))


def video(model: Model, request: GenerationRequest) -> Frames:
    return np.concatenate(list(generate(model.engine, request)))


def denoised(engine: WanEngine, request: GenerationRequest, after: WanGeneration | None) -> WanGeneration:
    run = engine.prepare(request, after)
    while run.step < run.total_steps:
        engine.denoise_step(run)
    return run


@pytest.mark.parametrize("num_frames, frames", [(13, 21), (9, 17), (5, 13)])
def test_a_model_without_a_first_frame_goes_on_from_what_is_left_of_nine_frames(
    t2v_only: Model, num_frames: int, frames: int
) -> None:
    request = replace(LONG, num_frames=num_frames)
    variant = t2v_only.engine.variant
    assert len(video(t2v_only, request)) == variant.video_frames(num_frames, 3) == frames


def test_a_model_with_a_first_frame_goes_on_from_the_last_one(expanding_model: Model) -> None:
    assert len(video(expanding_model, LONG)) == SMALL.video_frames(13, 3) == 37


@pytest.mark.slow
def test_the_first_fragment_is_the_video_of_one_fragment(expanding_model: Model, t2v_only: Model) -> None:
    for model in (expanding_model, t2v_only):
        alone = video(model, replace(LONG, num_fragments=1))
        assert np.array_equal(video(model, LONG)[: len(alone)], alone)


def test_a_later_fragment_is_the_video_from_the_last_frame_with_the_next_seed(expanding_model: Model) -> None:
    whole = video(expanding_model, replace(LONG, image=FIRST))
    alone = replace(LONG, num_fragments=1)
    second = video(expanding_model, replace(alone, image=whole[12], seed=LONG.seed + 1))
    third = video(expanding_model, replace(alone, image=whole[24], seed=LONG.seed + 2))
    assert np.array_equal(whole[12:25][1:], second[1:])
    assert np.array_equal(whole[24:][1:], third[1:])


@pytest.mark.slow
def test_a_video_goes_on_from_the_last_frames_of_another(expanding_model: Model, t2v_only: Model) -> None:
    for model in (expanding_model, t2v_only):
        overlap = model.engine.variant.overlap(13)
        whole = video(model, LONG)
        kept = len(video(model, replace(LONG, num_fragments=1)))
        tail = whole[kept - overlap : kept]
        rest = video(model, replace(LONG, num_fragments=2, tail=tail, fragments_before=1))
        assert np.array_equal(rest, whole[kept:])


def test_what_cannot_be_gone_on_from_is_refused(expanding_model: Model) -> None:
    frame = FIRST[None]
    for request, field in (
        (replace(LONG, tail=frame[:, :, 1:]), "tail"),
        (replace(LONG, tail=np.concatenate([frame, frame])), "tail"),
        (replace(LONG, tail=frame, image=FIRST), "image"),
        (replace(LONG, tail=frame, num_fragments=1, num_frames=1), "num_frames"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            expanding_model.engine.prepare(request)
        assert refused.value.field == field


@pytest.mark.slow
def test_each_fragment_has_its_own_prompt(expanding_model: Model) -> None:
    prompts = ("a calm sea", "a storm", "a calm sea")
    whole = video(expanding_model, replace(LONG, image=FIRST, fragment_prompts=prompts))
    alone = replace(LONG, num_fragments=1)
    for index, prompt in enumerate(prompts):
        begin = whole[12 * index] if index else FIRST
        part = video(expanding_model, replace(alone, prompt=prompt, image=begin, seed=LONG.seed + index))
        assert np.array_equal(whole[12 * index :][1:13], part[1:])
    other = video(expanding_model, replace(alone, prompt="a storm", image=FIRST))
    assert not np.array_equal(whole[:13], other)


def test_prompts_that_are_not_one_for_each_fragment_are_refused(expanding_model: Model) -> None:
    for prompts in (("a",), ("a", "b", "c", "d")):
        with pytest.raises(InvalidRequest, match="prompts for 3 fragments") as refused:
            expanding_model.engine.prepare(replace(LONG, fragment_prompts=prompts))
        assert refused.value.field == "fragment_prompts"


def test_the_shared_frames_are_held_at_the_noise_level_of_each_step(t2v_only: Model) -> None:
    engine = t2v_only.engine
    before = denoised(engine, LONG, None)
    tail = np.concatenate(list(engine.decode(before)))[-9:]
    known = engine.parts.vae.encode(pixels(tail))
    run = engine.prepare(LONG, before)
    noise = torch.randn(run.latents.shape, generator=torch.Generator().manual_seed(LONG.seed + 1))[:, :, :3]
    for step in range(run.total_steps + 1):
        sigma = run.solver.schedule.sigmas[step]
        torch.testing.assert_close(run.latents[:, :, :3], (1 - sigma) * known + sigma * noise)
        if step < run.total_steps:
            engine.denoise_step(run)
    assert torch.equal(run.latents[:, :, :3], known)


def test_a_fragment_depends_on_the_end_of_the_one_before(t2v_only: Model, expanding_model: Model) -> None:
    for model in (t2v_only, expanding_model):
        ends = []
        for seed in (7, 8):
            engine = model.engine
            before = denoised(engine, replace(LONG, seed=seed), None)
            list(engine.decode(before))
            ends.append(denoised(engine, LONG, before).latents[:, :, -1])
        assert not torch.equal(ends[0], ends[1])


@pytest.mark.slow
def test_nothing_is_kept_of_a_fragment_that_another_has_followed(t2v_only: Model) -> None:
    engine = t2v_only.engine
    request = replace(LONG, num_fragments=4)
    run: WanGeneration | None = None
    kept: list[Any] = []
    for _ in range(4):
        run = denoised(engine, request, run)
        assert sum(len(frames) for frames in engine.decode(run)) > 0
        kept.append(weakref.ref(run.part))
    gc.collect()
    assert [part() is not None for part in kept] == [False, False, False, True]
    assert run is not None and run.part.kept_frames == 0  # nothing follows the last one


def test_steps_are_counted_over_all_fragments(expanding_model: Model) -> None:
    seen: list[tuple[int, int]] = []
    for _ in generate(expanding_model.engine, LONG, lambda step, total: seen.append((step, total))):
        pass
    assert seen == [(step, 9) for step in range(1, 10)]


def test_a_picture_is_encoded_where_a_fragment_has_one(expanding_model: Model) -> None:
    told: list[Phase] = []
    list(generate(expanding_model.engine, replace(LONG, num_fragments=2), on_phase=told.append))
    text, image, end = Phase.ENCODING_TEXT, Phase.ENCODING_IMAGE, [Phase.DENOISING, Phase.DECODING]
    assert told == [
        *(Phase.PREPARING, text, Phase.PREPARING, *end),
        *(Phase.PREPARING, text, image, Phase.PREPARING, *end),
    ]


def test_the_next_fragment_is_the_same_in_whatever_format_the_frames_were_taken(
    expanding_model: Model, t2v_only: Model
) -> None:
    for model in (expanding_model, t2v_only):
        found = []
        for form in PixelFormat:
            before = denoised(model.engine, LONG, None)
            list(model.engine.decode(before, form))
            found.append(denoised(model.engine, LONG, before).latents)
        assert torch.equal(*found)


def test_a_fragment_that_is_not_decoded_cannot_be_followed(t2v_only: Model) -> None:
    engine = t2v_only.engine
    before = denoised(engine, LONG, None)
    with pytest.raises(ModelError, match="not decoded"):
        engine.prepare(LONG, before)
    frames = engine.decode(before)
    next(frames)
    with pytest.raises(ModelError, match="not decoded"):
        engine.prepare(LONG, before)


def test_nothing_follows_the_last_fragment(t2v_only: Model) -> None:
    request = replace(LONG, num_fragments=1)
    run = denoised(t2v_only.engine, request, None)
    list(t2v_only.engine.decode(run))
    with pytest.raises(ModelError, match="All 1 fragments"):
        t2v_only.engine.prepare(request, run)


@pytest.mark.parametrize(
    "changes, field",
    [
        ({"num_fragments": 0}, "num_fragments"),
        ({"num_frames": 1}, "num_frames"),
    ],
)
def test_impossible_fragments_are_refused(t2v_only: Model, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        t2v_only.engine.prepare(replace(LONG, **changes))
    assert refusal.value.field == field
