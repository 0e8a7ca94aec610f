"""Checkpoints of all variants: loaded from a folder, each makes diffusers' video of that folder."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPVisionModelWithProjection

from models.engine import EngineSettings, GenerationRequest
from models.errors import InvalidRequest
from models.loading import load_engine
from models.vae.preview import LatentColours
from models.variants import VARIANTS, Variant
from serve_app.replica.warm_up import warm_up

from .checkpoints import CLIP, base_folders, edit, load_checkpoint, small
from .conftest import REQUEST, Model, picture, remade

TOLERANCE = 1e-4
LEVELS = 0.5 + 255 * TOLERANCE
"""The tolerance of frames, whose values are rounded to 256 levels."""

FIRST = picture(REQUEST.width, REQUEST.height, seed=1)
LAST = picture(REQUEST.width, REQUEST.height, seed=2)
PICTURES = {"t2v": {}, "i2v": {"image": 1}, "flf2v": {"image": 1, "last_image": 2}}
"""The pictures that make up a task, by the seed of each."""

BASES = [
    "wan2.1-t2v-1.3b",
    "wan2.1-i2v-14b-480p",
    "wan2.1-i2v-14b-720p",
    "wan2.1-fun-inp-1.3b",
    "wan2.1-flf2v-14b",
    "wan2.1-vace-1.3b",
    "wan2.2-vace-fun-a14b",
    "wan2.2-t2v-a14b",
    "wan2.2-i2v-a14b",
    "wan2.2-ti2v-5b",
]
CASES = [(name, task) for name in BASES for task in sorted(VARIANTS[name].tasks)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Variant], Path]:
    return base_folders(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def load(folders: Callable[[Variant], Path]) -> Callable[[str], Model]:
    models: dict[str, Model] = {}

    def loaded(name: str) -> Model:
        if name not in models:
            models[name] = load_checkpoint(small(name), folders(small(name)))
        return models[name]

    return loaded


def defaults(name: str, task: str, size: tuple[int, int] = (48, 32), **changes: Any) -> GenerationRequest:
    """Return a small request with the variant's own sampling, of the same tokens for each model's pixels."""
    variant = VARIANTS[name]
    pixels = variant.size_multiple // 16
    request = replace(
        REQUEST,
        width=size[0] * pixels,
        height=size[1] * pixels,
        guidance_scale=variant.guidance_scale,
        guidance_scale_2=variant.guidance_scale_2,
        flow_shift=variant.flow_shift,
    )
    given = {field: picture(request.width, request.height, seed) for field, seed in PICTURES[task].items()}
    return replace(request, **(given | changes))


def assert_same_video(model: Model, request: GenerationRequest) -> None:
    latents, frames = model.latents_and_frames(request)
    expected_latents, (expected_frames,) = model.references(request)
    assert expected_latents.std() > 0.05
    torch.testing.assert_close(latents, expected_latents, atol=TOLERANCE, rtol=0)
    assert expected_frames.std() > 1.0 / 255
    assert np.abs(frames - expected_frames * 255).max() <= LEVELS


@pytest.mark.parametrize(("name", "task"), CASES)
@pytest.mark.parametrize("steps", [1, 7])
def test_a_base_model_makes_the_video_of_diffusers(
    load: Callable[[str], Model], name: str, task: str, steps: int
) -> None:
    assert_same_video(load(name), defaults(name, task, steps=steps))


@pytest.mark.parametrize(("name", "task"), CASES)
def test_a_video_without_guidance_is_that_of_diffusers(
    load: Callable[[str], Model], name: str, task: str
) -> None:
    scale_2 = None if VARIANTS[name].boundary is None else 1.0
    assert_same_video(load(name), defaults(name, task, guidance_scale=1.0, guidance_scale_2=scale_2))


@pytest.mark.parametrize(("name", "task"), CASES)
def test_a_distilled_model_takes_the_four_steps_of_diffusers_euler(
    load: Callable[[str], Model], name: str, task: str
) -> None:
    assert_same_video(load(f"{name}-distill"), defaults(f"{name}-distill", task))


@pytest.mark.slow
def test_guidance_one_forward_after_the_other(load: Callable[[str], Model]) -> None:
    for name in ("wan2.1-i2v-14b-480p", "wan2.1-vace-1.3b", "wan2.2-i2v-a14b"):
        apart = replace(load(name), engine=remade(load(name).engine, batched_tokens=0))
        assert_same_video(apart, defaults(name, "i2v"))


def test_an_image_encoder_saved_with_its_projection_is_the_same_one(
    folders: Callable[[Variant], Path], load: Callable[[str], Model], tmp_path: Path
) -> None:
    variant = small("wan2.1-i2v-14b-480p")
    folder = Path(shutil.copytree(folders(variant), tmp_path / "weights"))
    projecting = CLIPVisionModelWithProjection(CLIP).eval()
    projecting.vision_model.load_state_dict(load(variant.name).pipeline.image_encoder.state_dict())
    projecting.save_pretrained(folder / "image_encoder")
    edit(folder / "model_index.json", image_encoder=["transformers", "CLIPVisionModelWithProjection"])
    engine = load_engine(EngineSettings(variant, folder))
    request = defaults(variant.name, "i2v")
    latents = Model(engine, engine.parts.text, None).latents(request)
    assert torch.equal(latents, load(variant.name).latents(request))


@pytest.mark.parametrize("name", BASES)
def test_lower_precision_makes_nearly_the_same_video(
    folders: Callable[[Variant], Path], load: Callable[[str], Model], name: str
) -> None:
    engine = load_engine(EngineSettings(small(name), folders(small(name)), dtype="bfloat16"))
    request = defaults(name, min(VARIANTS[name].tasks), guidance_scale=1.0, guidance_scale_2=None)
    full = load(name).latents(request)
    half = Model(engine, engine.parts.text, None).latents(request)
    assert (full - half).norm() < 0.05 * full.norm()


@pytest.mark.parametrize("task", sorted(VARIANTS["wan2.1-vace-1.3b"].tasks))
@pytest.mark.parametrize("sizes", [[(80, 48)], [(32, 64), (160, 64)]])
def test_references_appear_as_in_diffusers(
    load: Callable[[str], Model], task: str, sizes: list[tuple[int, int]]
) -> None:
    name = "wan2.1-vace-1.3b"
    references = tuple(picture(*size, seed=index) for index, size in enumerate(sizes))
    request = defaults(name, task, references=references)
    assert_same_video(load(name), request)
    without = load(name).frames(replace(request, references=()))
    assert load(name).frames(request).shape == without.shape


def test_a_reference_steers_the_video(load: Callable[[str], Model]) -> None:
    request = defaults("wan2.1-vace-1.3b", "t2v", references=(FIRST,))
    latents = load("wan2.1-vace-1.3b").latents(request)
    other = load("wan2.1-vace-1.3b").latents(replace(request, references=(np.zeros_like(FIRST),)))
    assert (other - latents).abs().max() > 100 * TOLERANCE


def clip(request: GenerationRequest, seed: int, *channels: int) -> np.ndarray:
    """Return a random video or, without channels, a mask of any gray."""
    size = (request.num_frames, request.height, request.width, *channels)
    return np.random.default_rng(seed).integers(0, 256, size=size, dtype=np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("references", "control_scale"), [((), 1.0), ((FIRST,), 0.6)])
def test_a_video_is_changed_as_in_diffusers(
    load: Callable[[str], Model], masked: bool, references: Any, control_scale: float
) -> None:
    model = load("wan2.1-vace-1.3b")
    request = defaults("wan2.1-vace-1.3b", "t2v", references=references, control_scale=control_scale)
    mask = clip(request, 6) if masked else None
    video = clip(request, 5, 3)
    request = replace(request, video=video, mask=mask)
    assert_same_video(model, request)
    latents = model.latents(request)
    for other in (replace(request, video=255 - video), replace(request, mask=np.zeros_like(video[..., 0]))):
        assert (model.latents(other) - latents).abs().max() > 100 * TOLERANCE


def test_the_control_scale_is_how_strongly_a_picture_steers(load: Callable[[str], Model]) -> None:
    model, request = load("wan2.1-vace-1.3b"), defaults("wan2.1-vace-1.3b", "i2v")
    assert_same_video(model, replace(request, control_scale=1.5))
    unsteered = model.latents(replace(request, control_scale=0.0))
    other = picture(request.width, request.height, seed=2)
    assert torch.equal(unsteered, model.latents(replace(request, control_scale=0.0, image=other)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task", "references"),
    [
        ("wan2.1-vace-1.3b", "i2v", (FIRST, LAST)),
        ("wan2.2-ti2v-5b", "i2v", ()),
        ("wan2.2-i2v-a14b-distill", "i2v", ()),
    ],
)
def test_a_preview_shows_every_latent_frame_and_changes_nothing(
    load: Callable[[str], Model], name: str, task: str, references: Any
) -> None:
    model, request = load(name), defaults(name, task, references=references)
    stride = VARIANTS[name].spatial_stride
    run = model.engine.prepare(request)
    seen = [model.engine.preview(run)]
    while run.step < run.total_steps:
        model.engine.denoise_step(run)
        seen.append(model.engine.preview(run))
    assert torch.equal(run.latents, model.latents(request))
    assert {shown.shape for shown in seen} == {(3, request.height // stride, request.width // stride, 3)}
    assert {shown.dtype for shown in seen} == {np.dtype(np.uint8)}
    assert len({shown.tobytes() for shown in seen}) == len(seen)
    colours = LatentColours(model.engine.parts.vae)
    shown = colours(run.latents[:, :, len(references) :])  # what the run ends with is clean
    assert np.abs(shown.astype(int) - seen[-1]).max() <= 1
    if VARIANTS[name].expand_timesteps:
        assert all(np.array_equal(shown[0], seen[0][0]) for shown in seen)  # the picture that is held


@pytest.mark.parametrize(("name", "task"), [(name, task) for name, task in CASES if task != "t2v"])
def test_each_picture_steers_the_video(load: Callable[[str], Model], name: str, task: str) -> None:
    strong: dict[str, Any] = {"control_scale": 4.0} if VARIANTS[name].control_blocks else {}
    request = defaults(name, task, **strong)
    latents = load(name).latents(request)
    for field in PICTURES[task]:
        black: dict[str, Any] = {field: np.zeros_like(request.image)}
        other = replace(request, **black)
        assert (load(name).latents(other) - latents).abs().max() > 100 * TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("size", [(16, 16, 5), (112, 32, 13)])
def test_a_video_of_any_size_from_a_first_to_a_last_frame_is_that_of_diffusers(
    load: Callable[[str], Model], size: tuple[int, int, int]
) -> None:
    width, height, num_frames = size
    pictures: dict[str, Any] = {
        "image": picture(width, height, seed=3),
        "last_image": picture(width, height, seed=4),
    }
    for name in ("wan2.1-flf2v-14b", "wan2.2-i2v-a14b"):
        request = defaults(name, "flf2v", width=width, height=height, num_frames=num_frames, **pictures)
        assert_same_video(load(name), request)


def test_a_video_of_one_frame_from_an_image(load: Callable[[str], Model]) -> None:
    for name in ("wan2.1-i2v-14b-480p", "wan2.1-vace-1.3b", "wan2.2-i2v-a14b"):
        assert_same_video(load(name), defaults(name, "i2v", num_frames=1))


TWO_EXPERTS = [name for name in BASES if VARIANTS[name].boundary is not None]


@pytest.mark.slow
@pytest.mark.parametrize("name", TWO_EXPERTS)
def test_each_expert_has_a_guidance_scale_of_its_own(load: Callable[[str], Model], name: str) -> None:
    task = min(VARIANTS[name].tasks)
    request = defaults(name, task, steps=6, guidance_scale=6.0, guidance_scale_2=2.0)
    assert_same_video(load(name), request)
    other = load(name).latents(replace(request, guidance_scale_2=8.0))
    assert (other - load(name).latents(request)).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("name", TWO_EXPERTS)
def test_one_guidance_scale_is_that_of_both_experts(load: Callable[[str], Model], name: str) -> None:
    task = min(VARIANTS[name].tasks)
    assert_same_video(load(name), defaults(name, task, steps=6, guidance_scale_2=None))


@pytest.mark.parametrize(("scale", "scale_2"), [(4.0, 1.0), (1.0, 4.0)])
def test_one_expert_may_go_without_guidance(
    load: Callable[[str], Model], scale: float, scale_2: float
) -> None:
    model = load("wan2.2-t2v-a14b")
    request = defaults("wan2.2-t2v-a14b", "t2v", steps=6, guidance_scale=scale, guidance_scale_2=scale_2)
    # diffusers asks the first scale alone whether to guide; just above one it guides by nearly nothing
    guided = replace(request, guidance_scale=max(scale, 1 + 1e-9))
    torch.testing.assert_close(
        model.latents(request), model.reference(guided, "latent"), atol=TOLERANCE, rtol=0
    )


@pytest.mark.parametrize("name", TWO_EXPERTS)
def test_the_experts_take_turns_once(load: Callable[[str], Model], name: str) -> None:
    for variant, steps, turns in ((name, 6, None), (f"{name}-distill", 4, [2, 2])):
        run = load(variant).engine.prepare(defaults(variant, min(VARIANTS[name].tasks), steps=steps))
        taken = [stage.end - stage.begin for stage in run.stages]
        assert len(taken) == 2
        assert sum(taken) == steps
        assert turns is None or taken == turns


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("form", ["", "-distill"])
def test_a_replica_can_warm_up(load: Callable[[str], Model], name: str, form: str) -> None:
    warm_up(load(name + form).engine, VARIANTS[name + form])


SMALLER = picture(REQUEST.width, REQUEST.height - 16)
VIDEO, MASK = clip(REQUEST, 1, 3), clip(REQUEST, 2)
BAD_INPUT: list[tuple[str, dict[str, Any], str]] = [
    ("wan2.2-t2v-a14b", {"image": FIRST}, "image"),
    ("wan2.2-t2v-a14b", {"image": FIRST, "last_image": LAST}, "image"),
    ("wan2.2-t2v-a14b", {"last_image": LAST}, "last_image"),
    ("wan2.2-t2v-a14b", {"guidance_scale_2": float("nan")}, "guidance_scale_2"),
    ("wan2.1-t2v-1.3b", {"guidance_scale_2": 3.0}, "guidance_scale_2"),
    ("wan2.1-i2v-14b-480p", {}, "image"),
    ("wan2.1-i2v-14b-480p", {"image": FIRST, "last_image": LAST}, "last_image"),
    ("wan2.1-i2v-14b-720p", {"image": FIRST[..., :1]}, "image"),
    ("wan2.1-flf2v-14b", {}, "image"),
    ("wan2.1-flf2v-14b", {"image": FIRST}, "last_image"),
    ("wan2.1-flf2v-14b", {"last_image": LAST}, "image"),
    ("wan2.1-flf2v-14b", {"image": FIRST, "last_image": SMALLER}, "last_image"),
    ("wan2.1-vace-1.3b", {"last_image": LAST}, "last_image"),
    ("wan2.1-vace-1.3b", {"references": (FIRST,) * 5}, "references"),
    ("wan2.1-vace-1.3b", {"references": (FIRST[..., :1],)}, "references"),
    ("wan2.1-vace-1.3b", {"references": (FIRST[:0],)}, "references"),
    ("wan2.1-t2v-1.3b", {"references": (FIRST,)}, "references"),
    ("wan2.1-vace-1.3b", {"video": VIDEO[:5]}, "video"),
    ("wan2.1-vace-1.3b", {"video": VIDEO[:, 16:]}, "video"),
    ("wan2.1-vace-1.3b", {"video": VIDEO / 255.0}, "video"),
    ("wan2.1-vace-1.3b", {"video": VIDEO, "image": FIRST}, "video"),
    ("wan2.1-vace-1.3b", {"video": VIDEO, "image": FIRST, "last_image": LAST}, "video"),
    ("wan2.1-vace-1.3b", {"mask": MASK}, "mask"),
    ("wan2.1-vace-1.3b", {"video": VIDEO, "mask": VIDEO}, "mask"),
    ("wan2.1-vace-1.3b", {"video": VIDEO, "mask": MASK[:5]}, "mask"),
    ("wan2.1-vace-1.3b", {"video": VIDEO, "mask": MASK > 127}, "mask"),
    ("wan2.1-vace-1.3b", {"control_scale": float("nan")}, "control_scale"),
    ("wan2.1-vace-1.3b", {"control_scale": -1.0}, "control_scale"),
    ("wan2.1-t2v-1.3b", {"control_scale": 0.5}, "control_scale"),
    ("wan2.1-t2v-1.3b", {"video": VIDEO}, "video"),
    ("wan2.2-t2v-a14b", {"mask": MASK}, "mask"),
    ("wan2.2-i2v-a14b", {}, "image"),
    ("wan2.2-i2v-a14b", {"last_image": LAST}, "image"),
    ("wan2.2-i2v-a14b", {"image": SMALLER}, "image"),
    ("wan2.2-i2v-a14b", {"image": FIRST, "last_image": SMALLER}, "last_image"),
    ("wan2.2-i2v-a14b", {"image": FIRST, "last_image": LAST.astype(np.float32)}, "last_image"),
    ("wan2.2-i2v-a14b", {"image": FIRST, "last_image": LAST, "num_frames": 1}, "num_frames"),
]


@pytest.mark.parametrize(("name", "change", "field"), BAD_INPUT)
def test_a_request_beyond_a_model_is_refused_by_the_name_of_its_field(
    load: Callable[[str], Model], name: str, change: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        load(name).engine.prepare(replace(REQUEST, **change))
    assert caught.value.field == field
