"""Pictures whose values are repeated over the pixels and frames that each becomes, without being written."""

from dataclasses import dataclass
from math import prod

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Spread:
    """How the channels of one pixel become those of more frames, rows and columns of pixels.

    They are the values of ``sides``, each as often as sides of ``own`` are 1 in place of that.
    """

    sides: tuple[int, int, int, int]
    """Channels, frames, rows and columns that the channels of a pixel become."""
    own: tuple[int, int, int, int]
    """The same before they are repeated: 1 for the sides that they are repeated along."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """Larger and more pictures than ``values`` has, ``[t, channels, height, width]``, channels-last."""

    values: Tensor
    spread: Spread
    skipped: int = 0
    """Frames left out at the start."""

    def __post_init__(self) -> None:
        assert self.values.shape[1] == prod(self.spread.own), "a pixel has other channels"

    def pictures(self) -> Tensor:
        """Rearrange the channels, repeated, into the pictures, in one copy."""
        t, _, height, width = self.values.shape
        channels, time, rows, columns = self.spread.sides
        values = self.values.permute(0, 2, 3, 1).unflatten(3, self.spread.own)
        # t h w c time ph pw -> (t time) (h ph) (w pw) c
        spread = values.expand(t, height, width, *self.spread.sides).permute(0, 4, 1, 5, 2, 6, 3)
        pictures: Tensor = spread.reshape(t * time, height * rows, width * columns, channels)
        return pictures[self.skipped :].permute(0, 3, 1, 2)
