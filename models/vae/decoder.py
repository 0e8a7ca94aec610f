"""The decoder of Wan's causal VAE, and one run of it over a video's latents, in chunks of latent frames."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from models.kernels.repeated import Repeated, Spread
from models.limits import CHUNKS_AHEAD
from models.vae.causal_conv import ConvForm
from models.vae.channel_norm import ChannelNorm
from models.vae.history import History
from models.vae.layers import Layer, Middle, ResidualBlock
from models.vae.pending_sum import PendingSum
from models.vae.strips import Strips

_LARGE = 2
"""Largest resolutions, which are most of the work."""


class Decoder(nn.Module):
    """The decoder of Wan's causal VAE, from latents to pixels."""

    def __init__(self, vae: Any, conv: ConvForm, large: ConvForm | None = None) -> None:
        """``large``: form of the convolutions of the two largest resolutions, if another than ``conv``."""
        super().__init__()
        self.patch: int = vae.config.patch_size or 1
        decoder = vae.decoder
        self.unquantise = conv(vae.post_quant_conv)
        self.conv_in = conv(decoder.conv_in)
        self.middle = Middle(decoder.mid_block, conv)
        forms = [conv] * (len(decoder.up_blocks) - _LARGE) + [large or conv] * _LARGE
        blocks = zip(decoder.up_blocks, forms, strict=True)
        layers = [layer for block, form in blocks for layer in _up_layers(block, form)]
        enlarging = next(place for place, layer in enumerate(layers) if not isinstance(layer, ResidualBlock))
        self.low = nn.ModuleList(layers[:enlarging])
        self.up = nn.ModuleList(layers[enlarging:])
        self.norm = ChannelNorm(decoder.norm_out)
        self.conv_out = conv(decoder.conv_out)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that is computed in."""
        return self.norm.gamma.dtype

    def forward(
        self, x: PendingSum, history: History, strip_history: History, first: bool, *, begins: bool
    ) -> PendingSum:
        """Run the layers before the first that enlarges, on latents; or the others, on what those made.

        Returns this rank's strip. What comes before that is cut, up to the attention among all pixels of a
        frame, is a small part of the work, and is done on every rank.
        """
        if begins:
            pictures = self.middle(self.conv_in(self.unquantise(x, history), history), history, first)
            x = PendingSum(strip_history.cut(pictures.whole()))
        for layer in self.low if begins else self.up:
            x = layer(x, strip_history, first)
        return x if begins else self.conv_out(x, strip_history, self.norm, keep=False)


def _up_layers(block: Any, conv: ConvForm) -> Iterator[Layer]:
    """Yield the layers of an up block; one with a shortcut around it is a layer of its own."""
    if getattr(block, "avg_shortcut", None) is not None:
        yield ShortcutBlock(block, conv)
        return
    for resnet in block.resnets:
        yield ResidualBlock(resnet, conv)
    # Wan 2.2's residual VAE has one upsampler, Wan 2.1's VAE has a list of one
    upsampler = getattr(block, "upsampler", None) or next(
        iter(getattr(block, "upsamplers", None) or ()), None
    )
    if upsampler is not None:
        yield Upsample(upsampler, conv)


class Upsample(nn.Module):
    """Doubles the size and, with ``time_conv``, the frame rate of every frame but the video's first."""

    def __init__(self, resample: Any, conv: ConvForm) -> None:
        super().__init__()
        self.time_conv = conv(resample.time_conv) if resample.mode == "upsample3d" else None
        self.conv = conv(resample.resample[1], enlarges=True)

    def forward(self, x: PendingSum, history: History, first: bool) -> PendingSum:
        """Double the height and width, and with ``time_conv`` the number of frames."""
        enlarged: PendingSum = self.conv.enlarged(self._frames(x.taken(), history, first), history)
        return enlarged

    def _frames(self, x: PendingSum, history: History, first: bool) -> list[PendingSum]:
        """Return frames with the channels of one, then frames with those of two."""
        if self.time_conv is None:
            return [x]
        alone, rest = x.taken().split(1 if first else 0)
        pairs = [self.time_conv(rest, history, keep=False)] if len(rest) else []
        return [alone, *pairs] if first else pairs


class ShortcutBlock(nn.Module):
    """The residual VAE's up block: residual blocks and an upsampling, with a shortcut around them."""

    def __init__(self, block: Any, conv: ConvForm) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResidualBlock(resnet, conv) for resnet in block.resnets)
        self.upsample = Upsample(block.upsampler, conv)
        self.shortcut = Duplicate(block.avg_shortcut)

    def forward(self, x: PendingSum, history: History, first: bool) -> PendingSum:
        """Run the block: the frames come out larger, and possibly more of them."""
        entered = x
        for resnet in self.resnets:
            x = resnet(x, history, first)
        x = self.upsample(x, history, first)
        x.residual = self.shortcut(entered.whole(), first)
        return x


class Duplicate(nn.Module):
    """The residual VAE's upsampling shortcut: repeats each value over the pixels and frames it becomes."""

    def __init__(self, shortcut: Any) -> None:
        super().__init__()
        self._time, size = int(shortcut.factor_t), int(shortcut.factor_s)
        sides = int(shortcut.out_channels), self._time, size, size
        own, repeats = list(sides), int(shortcut.repeats)
        for side in (3, 2, 1, 0):  # the last sides are those that values are repeated along
            if repeats % sides[side] == 0:
                repeats //= sides[side]
                own[side] = 1
        assert repeats == 1, "values are repeated along whole sides"
        self._spread = Spread(sides, (own[0], own[1], own[2], own[3]))

    def forward(self, x: Tensor, first: bool) -> Repeated:
        """Rearrange the channels, repeated, into larger and more frames, when they are read."""
        return Repeated(x, self._spread, self._time - 1 if first else 0)


class Decoding:
    """A decoding run over a video or one tile. If ``parked``, its history is on the host between chunks.

    The layers of the lowest resolution run on many latent frames at once, the others on those of a chunk.
    """

    def __init__(self, decoder: Decoder, strips: Strips, latents: Tensor, parked: bool = False) -> None:
        """``latents``: of all frames, ``[f, z, h, w]``."""
        self._decoder = decoder
        self._histories = History(), History(strips)
        self._latents = latents
        self._begun: PendingSum | None = None
        self._parked = parked
        self._first = True

    def __call__(self, count: int) -> Tensor:
        """Decode the next ``count`` latent frames, or those that are left.

        Returns this rank's rows, ``[n, 3, rows, width]`` in −1 … 1.
        """
        self._move(self._latents.device)
        frames = self._decoder(self._next(count), *self._histories, self._first, begins=False).whole()
        self._first = False
        self._move(torch.device("cpu"))
        return _unpatchify(frames, self._decoder.patch).clamp(-1.0, 1.0)

    def _next(self, count: int) -> PendingSum:
        """Take the next frames of those that are begun; begin more of them if there are none."""
        if self._begun is None:
            ahead = 1 if self._parked else CHUNKS_AHEAD
            latents, self._latents = self._latents[: ahead * count], self._latents[ahead * count :]
            self._begun = self._decoder(PendingSum(latents), *self._histories, self._first, begins=True)
        if len(self._begun) <= count:
            begun, self._begun = self._begun, None
            return begun
        begun, self._begun = self._begun.split(count)
        return begun

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
