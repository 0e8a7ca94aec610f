"""Judges a video against the scene that was asked for: colours and motion, from its pixels alone."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.demo.grammar import BACKGROUNDS, COLOURS, MOTIONS, Rgb, Scene
from models.engine import Frames, Picture

Floats = NDArray[np.float64]

_APART = 45.0
"""How far a pixel of the shape is from the background in colour: Euclidean, of RGB 0 … 255."""

_LEAST_AREA = 25
"""Pixels. A frame with fewer of them shows no shape."""

_TREMBLING = 3.0

_SAME_DB = 18.0
"""Peak signal-to-noise ratio from which two pictures show the same. A shape elsewhere stays below."""

_SYMMETRY = {"square": 4, "triangle": 3, "star": 5}
"""Turned by a whole circle over so many, the shape looks the same."""


@dataclass(frozen=True, slots=True)
class Score:
    """What was found right."""

    background: bool
    colour: bool
    motion: bool
    first_frame: bool | None = None
    """Whether the video begins with the picture that was given; None where none was."""

    @property
    def everything(self) -> bool:
        return self.background and self.colour and self.motion


@dataclass(frozen=True, slots=True)
class Track:
    """What the shape did: centre and area in each frame, in pixels, and how far it turned, in radians."""

    x: Floats
    y: Floats
    area: Floats
    turned: float

    @property
    def motion(self) -> str:
        """The key of ``MOTIONS`` that fits best; empty where nothing moves, or all of it at once."""
        far = {
            "right": (self.x[-1] - self.x[0]) / 24,
            "left": (self.x[0] - self.x[-1]) / 24,
            "falls": (self.y[-1] - self.y[0]) / 16,
            "grows": np.log2(self.area[-1] / self.area[0]) / 1.5,
            "bounces": (_there_and_back(self.y) - abs(self.y[-1] - self.y[0])) / 10,
            "spins": min(abs(self.turned) / 1.5, 1.0),  # what is round seems to turn by chance
        }
        best = max(MOTIONS, key=far.__getitem__)
        return best if far[best] >= 0.5 else ""


def score(frames: Frames, scene: Scene, picture: Picture | None = None) -> Score:
    """Judge ``frames`` ``[n, height, width, 3]``; ``picture``: the first of them, where it was given."""
    background, colour = colours(frames)
    track = track_of(frames, scene.shape)
    return Score(
        background=background == scene.background,
        colour=colour == scene.colour,
        motion=track is not None and track.motion == scene.motion,
        first_frame=None if picture is None else _psnr(frames[0], picture) >= _SAME_DB,
    )


def colours(frames: Frames) -> tuple[str, str]:
    """The names of the background and of what is in front of it; empty where nothing is."""
    behind = _background(frames)
    shape = frames[_mask(frames, behind)]
    colour = _nearest(np.median(shape, axis=0), COLOURS) if len(shape) else ""
    return _nearest(behind, BACKGROUNDS), colour


def track_of(frames: Frames, shape: str) -> Track | None:
    """Follow the shape; None where it is not there in the first or the last frame, or in most of them."""
    masks = _mask(frames, _background(frames))
    area = masks.sum(axis=(1, 2)).astype(float)
    seen = area >= _LEAST_AREA
    if not (seen[0] and seen[-1] and seen.mean() > 0.5):
        return None
    rows, columns = np.indices(masks.shape[1:])
    weight = np.maximum(area, 1.0)
    x, y = ((masks * at).sum(axis=(1, 2)) / weight for at in (columns, rows))
    corners = _SYMMETRY.get(shape, 0)
    turned = _turned(masks[seen], x[seen], y[seen], corners) if corners else 0.0
    return Track(x[seen], y[seen], area[seen], turned)


def _background(frames: Frames) -> Floats:
    edge = np.concatenate([frames[:, :2], frames[:, -2:]], axis=1).reshape(-1, 3)
    sides = np.concatenate([frames[:, :, :2], frames[:, :, -2:]], axis=2).reshape(-1, 3)
    return np.asarray(np.median(np.concatenate([edge, sides]), axis=0))


def _mask(frames: Frames, background: Floats) -> NDArray[np.bool_]:
    return np.asarray(np.linalg.norm(frames.astype(float) - background, axis=-1) > _APART)


def _nearest(colour: Floats, names: Mapping[str, Rgb]) -> str:
    return min(names, key=lambda name: float(np.linalg.norm(colour - np.array(names[name]))))


def _psnr(picture: Picture, other: Picture) -> float:
    error = float(np.mean((picture.astype(float) - other) ** 2))
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def _there_and_back(y: Floats) -> float:
    """The length of a path, whatever trembles by less than ``_TREMBLING`` pixels left out."""
    length, at = 0.0, y[0]
    for place in y:
        if abs(place - at) >= _TREMBLING:
            length += abs(place - at)
            at = place
    return float(length)


def _turned(masks: NDArray[np.bool_], x: Floats, y: Floats, corners: int) -> float:
    """The angle by which it turned in all, from the phase of each frame's moment of that symmetry."""
    rows, columns = np.indices(masks.shape[1:])
    offset = (columns - x[:, None, None]) + 1j * (rows - y[:, None, None])
    moments = (masks * offset**corners).sum(axis=(1, 2))
    phase = np.unwrap(np.angle(moments))
    return float((phase[-1] - phase[0]) / corners)
