"""Pictures whose values are means of several pixels, frames and channels each, without being written."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Averaged:
    """Smaller and fewer pictures than ``values`` has, ``[t, channels, height, width]``, channels-last.

    Zeros stand for the frames that the first ``time`` of ``values`` lack.
    """

    values: Tensor
    channels: int
    """Channels of a mean picture."""
    time: int
    size: int
    """Frames, and rows or columns, that become one. The channels of one pixel of them, with the frames, rows
    and columns of it innermost, are averaged in ``channels`` groups of neighbours.
    """

    @property
    def lacking(self) -> int:
        """Frames of zeros before the first."""
        return -len(self.values) % self.time

    @property
    def group(self) -> int:
        """Values that become one."""
        return self.values.shape[1] * self.time * self.size**2 // self.channels

    def pictures(self) -> Tensor:
        """Average the values into the pictures."""
        x = F.pad(self.values, (0, 0, 0, 0, 0, 0, self.lacking, 0)) if self.lacking else self.values
        t, channels, height, width = x.shape
        # (t time) c (h ph) (w pw) -> t (c time ph pw) h w
        x = x.view(
            t // self.time, self.time, channels, height // self.size, self.size, width // self.size, self.size
        )
        x = x.permute(0, 2, 1, 4, 6, 3, 5).flatten(1, 4)
        means: Tensor = x.unflatten(1, (self.channels, -1)).mean(dim=2)
        return means
