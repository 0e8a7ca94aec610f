"""The decoder of Wan's causal VAE, and one run of it over a video's latents, chunk by chunk."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.vae.layers import CausalConv, ChannelNorm, History, Middle, UpBlock
from models.vae.strips import Strips


class Decoder(nn.Module):
    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.patch: int = vae.config.patch_size or 1
        decoder = vae.decoder
        self.unquantise = CausalConv(vae.post_quant_conv)
        self.conv_in = CausalConv(decoder.conv_in)
        self.middle = Middle(decoder.mid_block)
        self.up = nn.ModuleList(UpBlock(block) for block in decoder.up_blocks)
        self.norm = ChannelNorm(decoder.norm_out)
        self.conv_out = CausalConv(decoder.conv_out)

    def forward(self, x: Tensor, history: History, strip_history: History, first: bool) -> Tensor:
        """This rank's strip of the frames. Up to the attention among all pixels of a frame, which is a small
        part of the work, each rank decodes them whole.
        """
        x = self.conv_in(self.unquantise(x, history, first), history, first)
        x = strip_history.cut(self.middle(x, history, first))
        for block in self.up:
            x = block(x, strip_history, first)
        out: Tensor = self.conv_out(F.silu(self.norm(x)), strip_history, first)
        return out


class Decoding:
    """One run over a video, or over one tile of it. If ``parked``, the host remembers it between chunks."""

    def __init__(self, decoder: Decoder, strips: Strips, parked: bool = False) -> None:
        self._decoder = decoder
        self._histories = History(), History(strips)
        self._parked = parked
        self._first = True

    def __call__(self, latents: Tensor) -> Tensor:
        """This rank's rows ``[n, 3, rows, width]``, −1 … 1, of the frames of latents ``[t, z, h, w]``."""
        self._move(latents.device)
        frames = self._decoder(latents, *self._histories, first=self._first)
        self._first = False
        self._move(torch.device("cpu"))
        return _unpatched(frames, self._decoder.patch).clamp(-1.0, 1.0)

    def _move(self, device: torch.device) -> None:
        if self._parked:
            for history in self._histories:
                history.move(device)


def _unpatched(frames: Tensor, patch: int) -> Tensor:
    if patch == 1:
        return frames
    squares = frames.unflatten(1, (-1, patch, patch))  # [t, c, columns, rows, h, w]
    pixels: Tensor = squares.permute(0, 1, 4, 3, 5, 2).flatten(4, 5).flatten(2, 3)
    return pixels
