"""A model takes over from another what it can make just as it was decided, and nothing else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.variants import VARIANTS
from models.video_spec import LoraUse
from serve_app.config.model_settings import ModelSettings
from serve_app.coordinator.successor import misfit
from serve_app.tasks.continuation import Continuation
from serve_app.tasks.task import TaskSpec


def successor(variant: str, folder: Path) -> ModelSettings:
    return ModelSettings(name="new", variant=variant, weights=folder, lora_folder=folder)


def spec_of(variant: str, **changes: Any) -> TaskSpec:
    return replace(TaskSpec.of(VARIANTS[variant], "a cat"), **changes)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("wan2.1-t2v-1.3b", "wan2.1-t2v-14b"),
        ("wan2.1-vace-1.3b", "wan2.1-vace-14b"),
        ("wan2.2-t2v-a14b-distill", "wan2.2-t2v-a14b-distill"),
    ],
)
def test_a_video_of_the_same_form_is_taken_over(tmp_path: Path, old: str, new: str) -> None:
    spec = spec_of(old, video_frames=VARIANTS[old].video_frames(81, 3), num_fragments=3)
    (tmp_path / "style.safetensors").touch()
    assert misfit(replace(spec, loras=(LoraUse("style"),)), successor(new, tmp_path)) is None


@pytest.mark.parametrize(
    ("new", "changes", "reason"),
    [
        ("wan2.1-i2v-14b-480p", {}, "makes no video from what was sent"),
        ("wan2.1-t2v-1.3b", {"image_key": "k"}, "makes no video from what was sent"),
        ("wan2.1-t2v-1.3b", {"width": 1280}, "makes no video of 1280x480 and 81 frames"),
        ("wan2.2-ti2v-5b", {"height": 496}, "makes no video of 832x496 and 81 frames"),
        ("wan2.2-ti2v-5b", {"num_fragments": 2, "video_frames": 153}, "makes no video of 832x480 and 153"),
        ("wan2.2-ti2v-5b", {"continues": Continuation(9, 9)}, "makes no video of 832x480"),
        ("wan2.2-t2v-a14b", {}, "has another number of experts"),
        ("wan2.1-t2v-14b-distill", {}, "runs without guidance"),
        ("wan2.1-t2v-14b", {"guidance_scale": 1.0}, "runs with guidance"),
        ("wan2.1-t2v-14b", {"reference_keys": ("k",)}, "takes at most 0 reference images"),
        ("wan2.1-t2v-14b", {"video_key": "k"}, "takes no video to change"),
        ("wan2.1-t2v-14b", {"loras": (LoraUse("b"), LoraUse("a"))}, "has no LoRA a, b"),
    ],
)
def test_what_a_model_cannot_make_it_does_not_take_over(
    tmp_path: Path, new: str, changes: dict[str, Any], reason: str
) -> None:
    said = misfit(spec_of("wan2.1-t2v-1.3b", **changes), successor(new, tmp_path))
    assert said is not None and said.startswith(reason)
