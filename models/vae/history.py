"""The earlier frames that layers of the VAE still need in one run, and the run's division into strips."""

import torch
from torch import Tensor, nn

from models.vae.strips import Strips


class History(dict[nn.Module, Tensor]):
    """Causal cache: the last input frames of each layer, in one run over a video or a rank's strip."""

    def __init__(self, strips: Strips | None = None) -> None:
        super().__init__()
        self._strips = strips if strips is not None and strips.several else None

    def move(self, device: torch.device) -> None:
        """Move all frames to another device."""
        for layer, frames in self.items():
            self[layer] = frames.to(device)

    def cut(self, x: Tensor) -> Tensor:
        """Cut this rank's strip out of whole frames; without strips, return them unchanged."""
        return x if self._strips is None else self._strips.cut(x)

    def with_halo(self, x: Tensor, padding: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """Return a convolution's input and padding: in a strip, the halo replaces zero padding."""
        if self.halo_rows(padding) == 0:
            return x, padding
        assert self._strips is not None
        return self._strips.exchange_halo(x), (0, padding[1])

    def halo_rows(self, padding: tuple[int, int]) -> int:
        """Return the number of rows above and below a strip that a convolution needs: 0 without strips."""
        return 0 if self._strips is None else padding[0]

    def fill_halo(self, x: Tensor) -> None:
        """Write the halo to the first and the last row of frames that have room for it."""
        assert self._strips is not None, "there is no halo without strips"
        self._strips.fill_halo(x)

    def fill_row_below(self, x: Tensor) -> None:
        """Write the next strip's first row to the last row of frames, which stays as it is where none
        follows.
        """
        if self._strips is not None:
            self._strips.fill_row_below(x)
