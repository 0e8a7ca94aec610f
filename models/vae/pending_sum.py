"""A layer's result to which its bias, and the shortcut around it, are still to be added."""

import torch
from torch import Tensor

from models.kernels.averaged import Averaged
from models.kernels.pixel_operations import Residual
from models.kernels.repeated import Repeated


class PendingSum:
    """The sum of frames ``x``, a bias for each channel and a residual, made when it is needed.

    The addition is left to what reads the sum next, since a kernel can do it on its way. ``x`` belongs to the
    sum, which is made in its memory; the residual is only read. Frames are ``[t, channels, height, width]``,
    channels-last.
    """

    __slots__ = ("bias", "residual", "x")

    def __init__(self, x: Tensor, bias: Tensor | None = None, residual: Residual | None = None) -> None:
        self.x = x
        self.bias = bias
        self.residual = residual

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.x)

    @property
    def pending(self) -> bool:
        """True if anything is still to be added."""
        return self.bias is not None or self.residual is not None

    def whole(self) -> Tensor:
        """Add what is still to be added, and return the sum."""
        if self.bias is not None:
            self.x.add_(self.bias[:, None, None])
        residual = self.written_residual()
        if residual is not None:
            self.x.add_(residual)
        self.added()
        return self.x

    def written_residual(self) -> Tensor | None:
        """Return the residual as pictures in memory; None for none."""
        residual = self.residual
        return residual.pictures() if isinstance(residual, Averaged | Repeated) else residual

    def added(self) -> None:
        """Note that ``x`` has become the sum."""
        self.bias = self.residual = None

    def plus(self, other: "PendingSum") -> "PendingSum":
        """Return the sum of both, still to be made: of it the other's frames are the residual."""
        if self.residual is not None:
            self.whole()
        if other.residual is not None:
            other.whole()
        biases = [bias for bias in (self.bias, other.bias) if bias is not None]
        return PendingSum(self.x, sum(biases[1:], biases[0]) if biases else None, other.x)

    def taken(self) -> "PendingSum":
        """Return the sum, and leave nothing here: whoever still refers to this one keeps no memory alive."""
        taken = PendingSum(self.x, self.bias, self.residual)
        del self.x, self.bias, self.residual
        return taken

    def split(self, count: int) -> tuple["PendingSum", "PendingSum"]:
        """Return the first ``count`` frames and the others."""
        residual = self.written_residual()
        first, rest = (None, None) if residual is None else (residual[:count], residual[count:])
        return PendingSum(self.x[:count], self.bias, first), PendingSum(self.x[count:], self.bias, rest)

    def move(self, device: torch.device) -> None:
        """Move the sum to another device."""
        self.x = self.whole().to(device)
