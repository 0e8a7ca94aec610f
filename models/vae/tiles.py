"""Tiled processing: a picture as overlapping tiles, one at a time, for a device with little memory."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise, product
from typing import TypeAlias

import torch
from torch import Tensor

Span: TypeAlias = tuple[int, int]
"""A half-open range of latent rows or columns: start, and one past the end."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """Largest tile size, and the overlap of neighbouring tiles, in pixels of the video.

    A larger overlap makes tile edges less visible. The overlap is at most a third of the size, so that no
    more than two tiles of a row overlap anywhere.
    """

    size: int = 256
    overlap: int = 64


class Tiles:
    """Tiles of a picture of ``rows`` x ``columns`` latent pixels; without ``tiling``, one tile.

    ``stride``: pixels per latent pixel. Pictures are ``[t, channels, height, width]``, in pixels or latent
    pixels. Overlaps are blended linearly; the weights of all tiles add up to 1 everywhere.
    """

    def __init__(self, rows: int, columns: int, stride: int, tiling: Tiling | None = None) -> None:
        self._size = rows, columns
        self._tile = max(rows, columns) if tiling is None else tiling.size // stride
        self._overlap = 0 if tiling is None else tiling.overlap // stride
        self._spans = list(product(self._spread(rows), self._spread(columns)))

    def __len__(self) -> int:
        return len(self._spans)

    @property
    def largest(self) -> int:
        """Number of latent pixels in the largest tile."""
        return max((bottom - top) * (right - left) for (top, bottom), (left, right) in self._spans)

    def cut(self, pictures: Tensor) -> Iterator[Tensor]:
        """Yield the tiles of whole pictures, in order."""
        if len(self) == 1:
            yield pictures
            return
        scale = pictures.shape[2] // self._size[0]
        for rows, columns in self._spans:
            place = (slice(start * scale, end * scale) for start, end in (rows, columns))
            yield pictures[:, :, *place].contiguous(memory_format=torch.channels_last)

    def joined(self, tiles: Iterable[Tensor]) -> Tensor:
        """Blend tiles, in order, into whole pictures, taking each tile once the last is in place."""
        tiles = iter(tiles)
        first = next(tiles)
        if len(self) == 1:
            return first
        scale = first.shape[2] // (self._spans[0][0][1] - self._spans[0][0][0])
        height, width = (size * scale for size in self._size)
        whole = first.new_zeros(*first.shape[:2], height, width, dtype=torch.float32)
        for (rows, columns), tile in zip(self._spans, chain([first], tiles), strict=True):
            weights = self._fading(rows, self._size[0], scale)[:, None] * self._fading(
                columns, self._size[1], scale
            )
            place = (slice(start * scale, end * scale) for start, end in (rows, columns))
            whole[:, :, *place] += tile * weights.to(tile.device)
        return whole.to(first.dtype)

    def _spread(self, length: int) -> list[Span]:
        """Return nearly equal spans along one side, each overlapping the next."""
        shared = min(self._overlap, length - 1)
        count = -(-(length - shared) // (self._tile - self._overlap))
        bounds = [(length - shared) * index // count for index in range(count + 1)]
        return [(start, end + shared) for start, end in pairwise(bounds)]

    def _fading(self, span: Span, length: int, scale: int) -> Tensor:
        """Return a tile's blending weights along one side, with ramps over the overlaps."""
        weights = torch.ones((span[1] - span[0]) * scale)
        fade = self._overlap * scale
        ramp = (torch.arange(fade) + 0.5) / max(fade, 1)
        if span[0] > 0:
            weights[:fade] = ramp
        if span[1] < length:
            weights[len(weights) - fade :] = ramp.flip(0)
        return weights
