"""The demo model's training clips: drawings of a scene with random places, sizes and speeds."""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi

import numpy as np
from numpy.typing import NDArray

from models.demo.grammar import BACKGROUNDS, COLOURS, Scene
from models.engine import Frames

WIDTH, HEIGHT, FRAMES, FPS = 96, 64, 17, 8

Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Path:
    """A shape's path, each ``[frames]``: centre and radius in pixels, angle in radians."""

    x: Floats
    y: Floats
    radius: Floats
    angle: Floats

    def at(self, frames: slice) -> "Path":
        """Select some of the frames."""
        return Path(self.x[frames], self.y[frames], self.radius[frames], self.angle[frames])


def draw(scene: Scene, random: np.random.Generator, frames: slice = slice(None)) -> Frames:
    """Draw a clip of ``FRAMES`` frames, ``HEIGHT x WIDTH``, or some of its frames; ``random`` decides the
    rest.
    """
    path = _path(scene.motion, random).at(frames)
    inside = _OUTLINES[scene.shape](*_local(path))  # > 0 within, in pixels
    cover = np.clip(inside + 0.5, 0.0, 1.0)[..., None]
    front, back = (
        np.array(rgb, np.float32) for rgb in (COLOURS[scene.colour], BACKGROUNDS[scene.background])
    )
    return np.asarray(np.rint(cover * front + (1 - cover) * back), dtype=np.uint8)


def _path(motion: str, random: np.random.Generator) -> Path:
    """Draw the path. Sizes are large enough for a VAE with one latent pixel per 16 x 16 pixels."""
    at = np.linspace(0.0, 1.0, FRAMES)
    still = np.ones(FRAMES)
    radius = random.uniform(13.0, 17.0) * still
    x = random.uniform(0.3, 0.7) * WIDTH * still
    y = random.uniform(0.4, 0.6) * HEIGHT * still
    angle = random.uniform(-0.15, 0.15) * still
    if motion in ("right", "left"):
        begin, end = random.uniform(0.14, 0.3), random.uniform(0.7, 0.86)
        x = (begin + (end - begin) * at) * WIDTH
        x = x if motion == "right" else WIDTH - x
    elif motion == "falls":
        begin, end = random.uniform(0.15, 0.28), random.uniform(0.72, 0.85)
        y = (begin + (end - begin) * at) * HEIGHT
    elif motion == "grows":
        begin, end = random.uniform(6.0, 9.0), random.uniform(19.0, 24.0)
        radius = begin + (end - begin) * at
    elif motion == "bounces":
        height = random.uniform(0.32, 0.42) * HEIGHT
        y = random.uniform(0.72, 0.78) * HEIGHT - height * np.abs(np.cos(2 * pi * at))
    elif motion == "spins":
        angle = random.uniform(-pi, pi) + random.uniform(0.9, 1.2) * pi * at
        radius = radius + 2.0
    return Path(x, y, radius, angle)


def _local(path: Path) -> tuple[Floats, Floats, Floats]:
    """Return pixel coordinates in the shape's own frame, ``[frames, height, width]``, and the shape's
    radius.
    """
    x, y, radius, angle = (
        each.astype(np.float32)[:, None, None] for each in (path.x, path.y, path.radius, path.angle)
    )
    dx = np.arange(WIDTH, dtype=np.float32) + np.float32(0.5) - x
    dy = np.arange(HEIGHT, dtype=np.float32)[:, None] + np.float32(0.5) - y
    cos, sin = np.cos(angle), np.sin(angle)
    return dx * cos + dy * sin, dy * cos - dx * sin, radius


def _ball(x: Floats, y: Floats, radius: Floats) -> Floats:
    return radius - np.hypot(x, y)


def _square(x: Floats, y: Floats, radius: Floats) -> Floats:
    return 0.85 * radius - np.maximum(np.abs(x), np.abs(y))


def _triangle(x: Floats, y: Floats, radius: Floats) -> Floats:
    sides = [pi / 2 + turn * 2 * pi / 3 for turn in range(3)]
    inward = [0.6 * radius - (x * np.cos(side) + y * np.sin(side)) for side in sides]
    return np.asarray(np.min(inward, axis=0))


def _star(x: Floats, y: Floats, radius: Floats) -> Floats:
    """Five-pointed star: the outline between two points is one straight line, mirrored."""
    turn = np.mod(np.arctan2(x, -y), 2 * pi / 5)
    turn = np.minimum(turn, 2 * pi / 5 - turn)  # 0 at a point, pi / 5 between two
    far = 1.2 * radius
    near = 0.5 * far
    along, across = np.hypot(x, y) * np.cos(turn), np.hypot(x, y) * np.sin(turn)
    corner = near * np.cos(pi / 5), near * np.sin(pi / 5)
    edge = corner[0] - far, corner[1]
    length = np.hypot(*edge)
    return np.asarray((across * edge[0] - (along - far) * edge[1]) / length)


_OUTLINES: dict[str, Callable[[Floats, Floats, Floats], Floats]] = {
    "ball": _ball,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
}
