"""The demo model's training clips: drawings of a scene with random places, sizes and speeds."""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi

import numpy as np
from numpy.typing import NDArray

from models.demo.grammar import BACKGROUNDS, COLOURS, Scene
from models.engine import Frames

WIDTH, HEIGHT, FRAMES, FPS = 160, 96, 25, 8

Floats = NDArray[np.floating]
Ints = NDArray[np.signedinteger]

_REACH = 1.25
"""How far any shape reaches from its centre, in radii."""


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
    front, back = (
        np.array(rgb, np.float32) for rgb in (COLOURS[scene.colour], BACKGROUNDS[scene.background])
    )
    # only the square around the shape is computed, on a canvas whose margins take what leaves the picture
    reach = int(_REACH * path.radius.max()) + 2
    canvas = np.empty((len(path.x), HEIGHT + 2 * reach, WIDTH + 2 * reach, 3), np.uint8)
    colours = np.rint([back, front]).astype(np.uint8)
    canvas[:] = np.tile(colours[0], (canvas.shape[2], 1))  # whole rows are copied faster than pixels
    left, top = (np.floor(at).astype(int) - reach for at in (path.x, path.y))
    inside = _OUTLINES[scene.shape](*_local(path, left, top, 2 * reach))  # > 0 within, in pixels
    squares = colours.take(inside > 0, axis=0)
    edge = np.abs(inside) < 0.5
    cover = inside[edge][:, None] + 0.5
    squares[edge] = np.rint(cover * front + (1 - cover) * back)
    for frame, square, row, column in zip(canvas, squares, top + reach, left + reach, strict=True):
        frame[row : row + 2 * reach, column : column + 2 * reach] = square
    return canvas[:, reach:-reach, reach:-reach].copy()


def _path(motion: str, random: np.random.Generator) -> Path:
    """Draw the path. Sizes are large enough for a VAE with one latent pixel per 16 x 16 pixels."""
    at = np.linspace(0.0, 1.0, FRAMES)
    still = np.ones(FRAMES)
    radius = random.uniform(18.0, 22.0) * still
    x = random.uniform(0.42, 0.58) * WIDTH * still
    y = random.uniform(0.45, 0.55) * HEIGHT * still
    angle = random.uniform(-0.08, 0.08) * still
    if motion in ("right", "left"):
        begin, end = random.uniform(0.2, 0.28), random.uniform(0.72, 0.8)
        x = (begin + (end - begin) * at) * WIDTH
        x = x if motion == "right" else WIDTH - x
    elif motion == "falls":
        begin, end = random.uniform(0.2, 0.26), random.uniform(0.74, 0.8)
        y = (begin + (end - begin) * at) * HEIGHT
    elif motion == "grows":
        begin, end = random.uniform(11.0, 14.0), random.uniform(30.0, 34.0)
        radius = begin + (end - begin) * at
    elif motion == "bounces":
        height = random.uniform(0.34, 0.4) * HEIGHT
        y = random.uniform(0.71, 0.75) * HEIGHT - height * np.abs(np.cos(1.5 * pi * at))
    elif motion == "spins":
        angle = angle + random.uniform(0.9, 1.2) * pi * at
        radius = radius + 3.0
    return Path(x, y, radius, angle)


def _local(path: Path, left: Ints, top: Ints, side: int) -> tuple[Floats, Floats, Floats]:
    """Return the shape's own coordinates of the pixels of a square in each frame, ``[frames, side, side]``,
    and the shape's radius.
    """
    x, y, radius, angle = (
        each.astype(np.float32)[:, None, None]
        for each in (path.x - left, path.y - top, path.radius, path.angle)
    )
    pixels = np.arange(side, dtype=np.float32) + np.float32(0.5)
    dx, dy = pixels - x, pixels[:, None] - y
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
