"""Warm-up: small videos through the whole engine before the first request."""

import logging

import numpy as np

from models.engine import Engine, Generation, GenerationRequest
from models.errors import OutOfMemory
from models.generate import generate
from models.variants import Variant

_logger = logging.getLogger("ray.serve")


def warm_up(engine: Engine, variant: Variant, *, own_size: bool = False) -> None:
    """Generate five small frames in one step and discard them. Raises ``ModelError``.

    ``own_size``: generate a video of the variant's own size as well. A GPU's libraries plan each size when it
    first comes, and its memory grows to what that needs: so the first request waits for neither, and not for
    the first preview.
    """
    side = 4 * variant.size_multiple
    _generate(engine, variant, width=side, height=side, num_frames=5, show=own_size)
    if not own_size:
        return
    try:
        _generate(engine, variant, width=variant.width, height=variant.height, num_frames=variant.num_frames)
    except OutOfMemory as error:  # for requests of smaller videos the engine is ready
        _logger.warning("%s is not warmed up at its own size: %s", variant.name, error)


def _generate(
    engine: Engine, variant: Variant, *, width: int, height: int, num_frames: int, show: bool = False
) -> None:
    gray = np.full((height, width, 3), 128, dtype=np.uint8)
    request = GenerationRequest.of(
        variant,
        "a",
        width=width,
        height=height,
        num_frames=num_frames,
        steps=1,
        image=None if "t2v" in variant.tasks else gray,
        last_image=None if variant.tasks & {"t2v", "i2v"} else gray,
    )

    def prepared(run: Generation) -> None:
        if show:
            engine.preview(run)  # whose first call fits its map

    for _ in generate(engine, request, on_prepared=prepared):
        pass
