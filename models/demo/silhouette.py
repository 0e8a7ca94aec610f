"""The shape's silhouette in each frame: its place and area, how far it has turned, and which shape it is."""

from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LEAST_SHARE = 0.0035
"""Least share of the picture that a silhouette takes: a frame with less shows none."""

_LEAST_AREA = 60
"""Least pixels of a silhouette whose shape can be told."""

_FOLDS = {"triangle": (3, 0.4), "square": (4, 0.25), "star": (5, 0.45)}
"""Order of each shape's rotational symmetry, and the least symmetry of that order by which it is told. Drawn,
they have 0.66, 0.43 and 0.77; a pentagon, which is what a blurred star looks like, has 0.31 of the star's.
"""
_ROUND = 0.12
"""The most symmetry of any order that a ball has."""


@dataclass(frozen=True, slots=True)
class Silhouettes:
    """The pixels of the shape, frame after frame, and what is counted of them in each frame."""

    frame: NDArray[np.intp]
    """The frame of each pixel."""
    offset: NDArray[np.complex128]
    """Of each pixel from its silhouette's centre, in pixels: to the right, and 1j downwards."""
    area: Floats
    """In pixels."""
    x: Floats
    """Of the centre, as a share of the picture's width."""
    y: Floats
    """Of the centre, as a share of the picture's height."""
    is_seen: NDArray[np.bool_]
    """Whether the silhouette is there."""
    is_whole: NDArray[np.bool_]
    """Whether it does not touch the picture's border, and is large enough for its shape to be told."""

    @classmethod
    def of(cls, masks: NDArray[np.bool_]) -> "Silhouettes":
        """Take the silhouettes from masks ``[frames, height, width]``."""
        count, height, width = masks.shape
        frame, row, column = np.nonzero(masks)
        area = np.bincount(frame, minlength=count).astype(float)
        x, y = (np.bincount(frame, at, count) / np.maximum(area, 1.0) for at in (column, row))
        at_border = (row % (height - 1) == 0) | (column % (width - 1) == 0)
        return cls(
            frame,
            (column - x[frame]) + 1j * (row - y[frame]),
            area,
            x / width,
            y / height,
            is_seen=area >= _LEAST_SHARE * width * height,
            is_whole=(area >= _LEAST_AREA) & (np.bincount(frame, at_border, count) == 0),
        )

    def moments(self, order: int) -> NDArray[np.complex128]:
        """Compute each silhouette's moment of rotational symmetry: it turns ``order`` times as fast."""
        powers = self._powers(order)
        return self._sums(powers.real) + 1j * self._sums(powers.imag)

    def symmetry(self, order: int) -> Floats:
        """Compute how far each silhouette reaches out in ``order`` directions: 0 if in none, or in all."""
        reach = self._sums(np.abs(self._powers(order)))
        return np.asarray(np.abs(self.moments(order)) / np.maximum(reach, 1.0))

    def turned(self, shape: str) -> float:
        """Compute how far a shape has turned from first to last, in radians; a ball never has."""
        if shape not in _FOLDS:
            return 0.0
        order, _ = _FOLDS[shape]
        phase = np.unwrap(np.angle(self.moments(order)[self.is_seen]))
        return float((phase[-1] - phase[0]) / order)

    @property
    def shape(self) -> str:
        """The shape that most whole silhouettes have; empty where that cannot be told."""
        folds = {name: (self.symmetry(order), least) for name, (order, least) in _FOLDS.items()}
        is_named = {name: symmetry >= least for name, (symmetry, least) in folds.items()}
        is_named["ball"] = np.max([symmetry for symmetry, _ in folds.values()], axis=0) < _ROUND
        votes = {name: int(np.sum(named & self.is_whole)) for name, named in is_named.items()}
        best = max(votes, key=votes.__getitem__)
        return best if 2 * votes[best] > self.is_whole.sum() else ""

    def _powers(self, order: int) -> NDArray[np.complex128]:
        return reduce(np.multiply, [self.offset] * order)  # ten times as fast as raising to a power

    def _sums(self, of: Floats) -> Floats:
        return np.asarray(np.bincount(self.frame, of, len(self.area)), np.float64)
