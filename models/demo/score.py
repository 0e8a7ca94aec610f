"""Judge of a video: compares colours, shape and motion, measured from the pixels alone, with the scene of
the prompt.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from models.demo.grammar import BACKGROUNDS, COLOURS, MOTIONS, Rgb, Scene
from models.demo.silhouette import Floats, Silhouettes
from models.engine import Frames, Picture

_APART = 45.0
"""Least colour distance of a shape's pixel from the background: Euclidean, of RGB 0 … 255."""

_TREMBLING = 0.047
"""Share of the picture's height, up or down, that is no movement."""

_SAME_DB = 18.0
"""PSNR in dB from which two pictures count as the same. A displaced shape stays below."""


@dataclass(frozen=True, slots=True)
class Score:
    """The judge's findings."""

    background: bool
    colour: bool
    shape: bool
    motion: bool
    first_frame: bool | None = None
    """Whether the video begins with the given picture; None for text-to-video."""

    @property
    def everything(self) -> bool:
        """Return whether background, colour, shape and motion are all as asked."""
        return self.background and self.colour and self.shape and self.motion


@dataclass(frozen=True, slots=True)
class Track:
    """The shape's track: its centre in each frame, as shares of the picture's sides, its area, in pixels, and
    its total rotation, in radians.
    """

    x: Floats
    y: Floats
    area: Floats
    turned: float

    @property
    def motion(self) -> str:
        """The key of ``MOTIONS`` that fits best; empty where nothing moves, or all of it at once."""
        far = {
            "right": (self.x[-1] - self.x[0]) / 0.25,
            "left": (self.x[0] - self.x[-1]) / 0.25,
            "falls": (self.y[-1] - self.y[0]) / 0.25,
            "grows": np.log2(self.area[-1] / self.area[0]) / 1.5,
            "bounces": (_there_and_back(self.y) - abs(self.y[-1] - self.y[0])) / 0.156,
            "spins": min(abs(self.turned) / 1.5, 1.0),  # what is round seems to turn by chance
        }
        best = max(MOTIONS, key=far.__getitem__)
        return best if far[best] >= 0.5 else ""


def score(frames: Frames, scene: Scene, picture: Picture | None = None) -> Score:
    """Judge ``frames`` ``[n, height, width, 3]``; ``picture``: the given first frame, or None."""
    behind = _background(frames)
    apart = _apart(frames, behind)
    seen = apart > _APART
    colour = np.median(frames[seen], axis=0) if seen.any() else None
    # a silhouette ends where an edge is halfway from one colour to the other
    halfway = 0.5 * float(np.linalg.norm(colour - behind)) if colour is not None else _APART
    track = _track(Silhouettes.of(seen), scene.shape)
    return Score(
        background=_nearest(behind, BACKGROUNDS) == scene.background,
        colour=colour is not None and _nearest(colour, COLOURS) == scene.colour,
        shape=Silhouettes.of(apart > halfway).shape == scene.shape,
        motion=track is not None and track.motion == scene.motion,
        first_frame=None if picture is None else _psnr(frames[0], picture) >= _SAME_DB,
    )


def track_of(frames: Frames, shape: str) -> Track | None:
    """Track the shape. Return None if it is missing in the first or the last frame, or in most frames."""
    return _track(Silhouettes.of(_apart(frames, _background(frames)) > _APART), shape)


def _track(silhouettes: Silhouettes, shape: str) -> Track | None:
    seen = silhouettes.is_seen
    if not (seen[0] and seen[-1] and seen.mean() > 0.5):
        return None
    return Track(silhouettes.x[seen], silhouettes.y[seen], silhouettes.area[seen], silhouettes.turned(shape))


def _background(frames: Frames) -> Floats:
    edge = np.concatenate([frames[:, :2], frames[:, -2:]], axis=1).reshape(-1, 3)
    sides = np.concatenate([frames[:, :, :2], frames[:, :, -2:]], axis=2).reshape(-1, 3)
    return np.asarray(np.median(np.concatenate([edge, sides]), axis=0))


def _apart(frames: Frames, background: Floats) -> Floats:
    """Compute each pixel's colour distance from the background, ``[frames, height, width]``."""
    # one channel after the other: numpy is slow where the last dimension is short
    levels = enumerate(background.astype(np.float32))
    squares = [np.square(frames[..., channel].astype(np.float32) - level) for channel, level in levels]
    return np.asarray(np.sqrt(sum(squares)))


def _nearest(colour: Floats, names: Mapping[str, Rgb]) -> str:
    return min(names, key=lambda name: float(np.linalg.norm(colour - np.array(names[name]))))


def _psnr(picture: Picture, other: Picture) -> float:
    error = float(np.mean((picture.astype(float) - other) ** 2))
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def _there_and_back(y: Floats) -> float:
    """Return the length of a path, ignoring jitter below ``_TREMBLING``."""
    length, at = 0.0, y[0]
    for place in y:
        if abs(place - at) >= _TREMBLING:
            length += abs(place - at)
            at = place
    return float(length)
