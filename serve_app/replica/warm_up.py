"""Warm-up: one small video through the whole engine before the first request."""

import numpy as np

from models.engine import Engine, GenerationRequest
from models.generate import generate
from models.variants import Variant


def warm_up(engine: Engine, variant: Variant) -> None:
    """Generate five small frames in one step and discard them. Raises ``ModelError``."""
    side = 4 * variant.size_multiple
    gray = np.full((side, side, 3), 128, dtype=np.uint8)
    request = GenerationRequest.of(
        variant,
        "a",
        width=side,
        height=side,
        num_frames=5,
        steps=1,
        image=None if "t2v" in variant.tasks else gray,
        last_image=None if variant.tasks & {"t2v", "i2v"} else gray,
    )
    for _ in generate(engine, request):
        pass
