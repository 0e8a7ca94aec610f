"""The work of a video, by which its time is told and its share of the devices is counted."""

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
