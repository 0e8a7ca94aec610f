"""The training clips as tensors. A clip follows from its seed and number alone, in any order of drawing."""

from collections.abc import Iterable
from random import Random

import numpy as np
import torch
from torch import Tensor

from models.demo.clips import FRAMES, draw
from models.demo.grammar import SCENES, Scene
from models.engine import Frames


def scene_of(number: int) -> Scene:
    """Draw the scene of a clip at random: scenes in order would give a batch a single shape and colour."""
    return Random(number).choice(SCENES)


def clip(seed: int, number: int) -> Frames:
    """Draw clip ``number`` of the endless series ``seed``."""
    return draw(scene_of(number), np.random.default_rng((seed, number)))


def picture(seed: int, number: int) -> Frames:
    """Draw one random frame of clip ``number``, ``[1, height, width, 3]``."""
    frame = Random(number).randrange(FRAMES)
    return draw(scene_of(number), np.random.default_rng((seed, number)), slice(frame, frame + 1))


def as_video(clips: Iterable[Frames]) -> Tensor:
    """Convert frames to a video tensor ``[n, 3, frames, height, width]`` in −1 … 1."""
    return torch.from_numpy(np.stack(list(clips))).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
