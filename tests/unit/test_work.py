"""The work of a video, by which its time is told and its share of the devices is counted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serve_app.config.model_settings import ModelSettings
from serve_app.submission.plan import plan
from serve_app.submission.video_order import VideoOrder


@pytest.mark.parametrize(
    ("steps", "settings", "scale", "forwards"),
    [
        (10, {}, 5.0, 20),
        (10, {"options": {"unguided_steps": 0.4}}, 5.0, 16),
        (7, {"options": {"unguided_steps": 0.5}}, 5.0, 11),
        (100, {"options": {"unguided_steps": 0.29}}, 5.0, 171),
        (10, {"options": {"unguided_steps": 0.4}}, 1.0, 10),
        (10, {"options": {"unguided_steps": 0.4}, "engine": "other.engine:make"}, 5.0, 20),
    ],
)
def test_steps_without_guidance_are_half_the_work_of_others(
    steps: int, settings: dict[str, Any], scale: float, forwards: int
) -> None:
    model = ModelSettings(name="demo", variant="demo", weights=Path("w"), **settings)
    for fragments in (1, 3):
        order = VideoOrder(prompt="a ball", steps=steps, guidance_scale=scale, num_fragments=fragments)
        planned = plan(order, [model])
        assert planned.work == fragments * forwards * planned.tokens


@pytest.mark.parametrize(
    ("options", "scale", "of_a_fragment", "saved"),
    [
        ({"low_resolution_steps": 0.4}, 5.0, 20, 0.75 * 8),
        ({"low_resolution_steps": 0.4}, 1.0, 10, 0.75 * 4),
        ({"low_resolution_steps": 0.4, "unguided_steps": 0.7}, 5.0, 13, 0.75 * 7),
    ],
)
def test_steps_at_half_size_are_a_quarter_of_the_work_of_others_until_the_run_is_shown_a_picture(
    options: dict[str, Any], scale: float, of_a_fragment: int, saved: float
) -> None:
    model = ModelSettings(name="demo", variant="demo", weights=Path("w"), options=options)
    for fragments in (1, 3):
        order = VideoOrder(prompt="a ball", steps=10, guidance_scale=scale, num_fragments=fragments)
        planned = plan(order, [model])
        assert planned.work == (fragments * of_a_fragment - saved) * planned.tokens
        shown = replace(planned, spec=replace(planned.spec, image_key="a picture"))
        assert shown.work == fragments * of_a_fragment * planned.tokens
