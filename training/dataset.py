"""Clips as tensors, each from a seed and a number of its own, in whichever order they are drawn."""

from collections.abc import Iterable
from random import Random

import numpy as np
import torch
from torch import Tensor

from models.demo.clips import FRAMES, draw
from models.demo.grammar import SCENES, Scene
from models.engine import Frames


def scene_of(number: int) -> Scene:
    """The scene of a clip, drawn: in turn, a batch would have a single shape and colour."""
    return Random(number).choice(SCENES)


def clip(seed: int, number: int) -> Frames:
    """Clip ``number`` of the endless series ``seed``."""
    return draw(scene_of(number), np.random.default_rng((seed, number)))


def picture(seed: int, number: int) -> Frames:
    """Some frame of clip ``number``, ``[1, height, width, 3]``."""
    frame = Random(number).randrange(FRAMES)
    return draw(scene_of(number), np.random.default_rng((seed, number)), slice(frame, frame + 1))


def as_video(clips: Iterable[Frames]) -> Tensor:
    """``[n, 3, frames, height, width]`` in −1 … 1."""
    return torch.from_numpy(np.stack(list(clips))).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
