"""A paced engine whose steps take longer the larger the video is, and more so than its size."""

import time

from models.engine import EngineSettings, Generation
from testbed.paced_engine import PacedEngine

SECONDS_A_MILLION = 1.5
"""Of a step, for a million pixels of all frames."""
ATTENTION_FROM = 300_000
"""Pixels from which on the part that grows with their square is the larger one, as attention's does."""


class SizedEngine(PacedEngine):
    """Steps take as long as their size says."""

    def denoise_step(self, generation: Generation) -> None:
        """One step. Raises as the paced engine does."""
        request = generation.request
        pixels = request.width * request.height * request.num_frames
        time.sleep(SECONDS_A_MILLION * pixels / 1e6 * (1 + pixels / ATTENTION_FROM))
        super().denoise_step(generation)


def load_engine(settings: EngineSettings) -> SizedEngine:
    """Takes no options and reads no weights."""
    return SizedEngine(step_s=0.0)
