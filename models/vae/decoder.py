"""The decoder of Wan's causal VAE, and one run of it over a video's latents, in chunks of latent frames."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.vae.layers import (
    CausalConv,
    ChannelNorm,
    History,
    Middle,
    ResidualBlock,
    channels_last,
    empty_pictures,
)
from models.vae.strips import Strips


class Decoder(nn.Module):
    """The decoder of Wan's causal VAE, from latents to pixels."""

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
        """Decode this rank's strip of the frames.

        The layers up to the attention among all pixels of a frame, a small part of the work, run on whole
        frames on every rank.
        """
        x = self.conv_in(self.unquantise(x, history, first), history, first)
        x = strip_history.cut(self.middle(x, history, first))
        for block in self.up:
            x = block(x, strip_history, first)
        out: Tensor = self.conv_out(F.silu(self.norm(x)), strip_history, first)
        return out


class Upsample(nn.Module):
    """Doubles the size and, with ``time_conv``, the frame rate of every frame but the video's first."""

    weight: Tensor
    bias: Tensor

    def __init__(self, resample: Any) -> None:
        super().__init__()
        self.time_conv = CausalConv(resample.time_conv) if resample.mode == "upsample3d" else None
        conv = resample.resample[1]
        self.register_buffer("weight", channels_last(conv.weight.detach()))
        self.register_buffer("bias", conv.bias.detach())

    def forward(self, x: Tensor, history: History, first: bool) -> Tensor:
        """Double the height and width, and with ``time_conv`` the number of frames."""
        if self.time_conv is not None:
            alone = 1 if first else 0
            if len(x) > alone:
                x = _in_turn(x[:alone], self.time_conv(x[alone:], history, first))
        x = F.interpolate(x, scale_factor=2.0, mode="nearest-exact")
        x, padding = history.with_halo(x, (1, 1))
        return F.conv2d(x, self.weight, self.bias, padding=padding)


def _in_turn(alone: Tensor, pairs: Tensor) -> Tensor:
    """Write frames ``[1 or 0, c, h, w]``, then pairs of frames ``[t, 2 · c, h, w]``, channels-last."""
    channels, count = alone.shape[1], len(alone)
    frames = empty_pictures((count + 2 * len(pairs), *alone.shape[1:]), pairs)
    frames[:count] = alone
    for half in range(2):
        frames[count + half :: 2] = pairs[:, half * channels : (half + 1) * channels]
    return frames


class UpBlock(nn.Module):
    """Residual blocks, then an upsampling if the block has one."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResidualBlock(resnet) for resnet in block.resnets)
        # Wan 2.2's residual VAE has one upsampler, Wan 2.1's VAE has a list of one
        upsampler = getattr(block, "upsampler", None) or next(
            iter(getattr(block, "upsamplers", None) or ()), None
        )
        self.upsample = None if upsampler is None else Upsample(upsampler)
        shortcut = getattr(block, "avg_shortcut", None)
        self.shortcut = None if shortcut is None else Duplicate(shortcut)

    def forward(self, x: Tensor, history: History, first: bool) -> Tensor:
        """Run the block: with an upsampling, the frames come out larger and possibly more of them."""
        shortcut = None if self.shortcut is None else self.shortcut(x, first)
        for resnet in self.resnets:
            x = resnet(x, history, first)
        if self.upsample is not None:
            x = self.upsample(x, history, first)
        return x if shortcut is None else x + shortcut


class Duplicate(nn.Module):
    """The residual VAE's upsampling shortcut: repeats each value over the pixels and frames it becomes."""

    def __init__(self, shortcut: Any) -> None:
        super().__init__()
        self.out_channels: int = shortcut.out_channels
        self.time, self.size = int(shortcut.factor_t), int(shortcut.factor_s)
        self.repeats: int = shortcut.repeats

    def forward(self, x: Tensor, first: bool) -> Tensor:
        """Repeat the channels and rearrange them into larger and more frames."""
        # t (c time ph pw) h w -> (t time) c (h ph) (w pw)
        t, _, height, width = x.shape
        x = x.repeat_interleave(self.repeats, dim=1)
        x = x.view(t, self.out_channels, self.time, self.size, self.size, height, width)
        x = x.permute(0, 2, 1, 5, 3, 6, 4).reshape(
            t * self.time, self.out_channels, height * self.size, width * self.size
        )
        return x[self.time - 1 :] if first else x


class Decoding:
    """A decoding run over a video or one tile. If ``parked``, its history is on the host between chunks."""

    def __init__(self, decoder: Decoder, strips: Strips, parked: bool = False) -> None:
        self._decoder = decoder
        self._histories = History(), History(strips)
        self._parked = parked
        self._first = True

    def __call__(self, latents: Tensor) -> Tensor:
        """Decode latents ``[t, z, h, w]`` to this rank's rows, ``[n, 3, rows, width]`` in −1 … 1."""
        self._move(latents.device)
        frames = self._decoder(latents, *self._histories, first=self._first)
        self._first = False
        self._move(torch.device("cpu"))
        return _unpatchify(frames, self._decoder.patch).clamp(-1.0, 1.0)

    def _move(self, device: torch.device) -> None:
        if self._parked:
            for history in self._histories:
                history.move(device)


def _unpatchify(frames: Tensor, patch: int) -> Tensor:
    """Rearrange channels into squares of pixels, the reverse of the encoder's ``_patchify``."""
    if patch == 1:
        return frames
    # t (c pw ph) h w -> t c (h ph) (w pw)
    squares = frames.unflatten(1, (-1, patch, patch))
    pixels: Tensor = squares.permute(0, 1, 4, 3, 5, 2).flatten(4, 5).flatten(2, 3)
    return pixels
