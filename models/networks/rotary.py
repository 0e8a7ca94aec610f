"""The rotary table of Wan's transformers: how far each channel of a head is turned at each place."""

import torch
from torch import Tensor, nn

_BASE = 10_000.0


class RotaryTable(nn.Module):
    """Cosines and sines for the places of a video, by time, height and width, on the host at first.

    They are computed in float64, each of them for two channels, which are turned together.
    """

    freqs_cos: Tensor
    freqs_sin: Tensor

    def __init__(self, head_dim: int, patch: tuple[int, int, int], longest: int) -> None:
        """``longest``: places along each side."""
        super().__init__()
        self._patch = patch
        side = 2 * (head_dim // 6)
        self._channels = [head_dim - 2 * side, side, side]
        angles = torch.cat([_angles(channels, longest) for channels in self._channels], dim=1)
        self.register_buffer("freqs_cos", angles.cos().float(), persistent=False)
        self.register_buffer("freqs_sin", angles.sin().float(), persistent=False)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines ``[1, tokens, 1, head_dim]`` of latents ``[…, frames, height, width]``."""
        grid = [size // patch for size, patch in zip(latents.shape[-3:], self._patch, strict=True)]
        return self._table(self.freqs_cos, grid), self._table(self.freqs_sin, grid)

    def _table(self, values: Tensor, grid: list[int]) -> Tensor:
        parts = []
        for side, part in enumerate(values.split(self._channels, dim=1)):
            shape = [1, 1, 1, -1]
            shape[side] = grid[side]
            parts.append(part[: grid[side]].view(shape).expand(*grid, -1))
        return torch.cat(parts, dim=-1).flatten(0, 2)[None, :, None]


def _angles(channels: int, longest: int) -> Tensor:
    host = torch.device("cpu")  # numbers, also where a network is made without memory
    rates = 1.0 / _BASE ** (torch.arange(0, channels, 2, dtype=torch.float64, device=host) / channels)
    return torch.outer(torch.arange(longest, device=host), rates).repeat_interleave(2, dim=1)
