"""Judge of a video: compares colours and motion, measured from the pixels alone, with the scene of the
prompt.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.demo.grammar import BACKGROUNDS, COLOURS, MOTIONS, Rgb, Scene
from models.engine import Frames, Picture

Floats = NDArray[np.float64]

_APART = 45.0
"""Least colour distance of a shape's pixel from the background: Euclidean, of RGB 0 … 255."""

_LEAST_AREA = 25
"""Least pixels of a shape: a frame with fewer shows none."""

_TREMBLING = 3.0

_SAME_DB = 18.0
"""PSNR in dB from which two pictures count as the same. A displaced shape stays below."""

_SYMMETRY = {"square": 4, "triangle": 3, "star": 5}
"""Order of each shape's rotational symmetry."""


@dataclass(frozen=True, slots=True)
class Score:
    """The judge's findings."""

    background: bool
    colour: bool
    motion: bool
    first_frame: bool | None = None
    """Whether the video begins with the given picture; None for text-to-video."""

    @property
    def everything(self) -> bool:
        """Return whether background, colour and motion are all as asked."""
        return self.background and self.colour and self.motion


@dataclass(frozen=True, slots=True)
class Track:
    """The shape's track: centre and area in each frame, in pixels, and its total rotation, in radians."""

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
    """Judge ``frames`` ``[n, height, width, 3]``; ``picture``: the given first frame, or None."""
    background, colour = colours(frames)
    track = track_of(frames, scene.shape)
    return Score(
        background=background == scene.background,
        colour=colour == scene.colour,
        motion=track is not None and track.motion == scene.motion,
        first_frame=None if picture is None else _psnr(frames[0], picture) >= _SAME_DB,
    )


def colours(frames: Frames) -> tuple[str, str]:
    """Name the colours of background and shape; empty where there is no shape."""
    behind = _background(frames)
    shape = frames[_mask(frames, behind)]
    colour = _nearest(np.median(shape, axis=0), COLOURS) if len(shape) else ""
    return _nearest(behind, BACKGROUNDS), colour


def track_of(frames: Frames, shape: str) -> Track | None:
    """Track the shape. Return None if it is missing in the first or the last frame, or in most frames."""
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
    """Return the length of a path, ignoring jitter below ``_TREMBLING`` pixels."""
    length, at = 0.0, y[0]
    for place in y:
        if abs(place - at) >= _TREMBLING:
            length += abs(place - at)
            at = place
    return float(length)


def _turned(masks: NDArray[np.bool_], x: Floats, y: Floats, corners: int) -> float:
    """Return the total rotation, from the phase of each frame's moment of that symmetry."""
    rows, columns = np.indices(masks.shape[1:])
    offset = (columns - x[:, None, None]) + 1j * (rows - y[:, None, None])
    moments = (masks * offset**corners).sum(axis=(1, 2))
    phase = np.unwrap(np.angle(moments))
    return float((phase[-1] - phase[0]) / corners)
