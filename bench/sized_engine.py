"""A paced engine whose steps take longer the larger the video is, and more so than its size."""

import time

from models.engine import EngineSettings, Generation
from testbed.paced_engine import PacedEngine

SECONDS_A_MILLION = 1.5
"""The seconds of a step for a million pixels of all frames."""
ATTENTION_FROM = 300_000
"""The pixels from which on the part that grows with their square, as attention does, is the larger one."""


class SizedEngine(PacedEngine):
    """A paced engine whose steps take as long as the video's size asks."""

    def denoise_step(self, generation: Generation) -> None:
        """Take one step. Raises as the paced engine does."""
        request = generation.request
        pixels = request.width * request.height * request.num_frames
        time.sleep(SECONDS_A_MILLION * pixels / 1e6 * (1 + pixels / ATTENTION_FROM))
        super().denoise_step(generation)


def load_engine(settings: EngineSettings) -> SizedEngine:
    """Make the engine; takes no options and reads no weights."""
    return SizedEngine(step_s=0.0)
