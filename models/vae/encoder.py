"""The encoder of Wan's causal VAE, and one run of it over a video, in chunks of frames."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from models.kernels.averaged import Averaged
from models.vae.causal_conv import CausalConv, ConvForm, channels_last
from models.vae.channel_norm import ChannelNorm
from models.vae.history import History
from models.vae.layers import Layer, Middle, PictureAttention, ResidualBlock
from models.vae.pending_sum import PendingSum
from models.vae.strips import Strips


class Encoder(nn.Module):
    """The encoder of Wan's causal VAE as a list of layers, each called as ``layer(x, history, first)``."""

    def __init__(self, vae: Any, conv: ConvForm) -> None:
        super().__init__()
        self.patch: int = vae.config.patch_size or 1
        self.stride: int = vae.config.scale_factor_temporal
        """Frames of a latent frame other than the first."""
        encoder = vae.encoder
        self.layers = nn.ModuleList(
            [
                _Entry(encoder.conv_in, conv),
                *(down_layer(layer, conv) for layer in encoder.down_blocks),
                Middle(encoder.mid_block, conv),
                _Head(encoder, vae.quant_conv, conv),
            ]
        )
        self.whole_from = next(index for index, layer in enumerate(self.layers) if _attends(layer))
        """Index of the first layer with attention among all pixels of a frame, which needs whole frames."""
        self.memories = tuple(_memories(self.layers))
        """How many frames of the video before a chunk have a part in what each layer remembers."""

    def forward(self, index: int, x: PendingSum, history: History, first: bool) -> PendingSum:
        """Run one layer, by its index: ``Encoding`` skips layers whose result it has."""
        out: PendingSum = self.layers[index](x, history, first)
        return out


class _Entry(nn.Module):
    def __init__(self, conv_in: Any, conv: ConvForm) -> None:
        super().__init__()
        self.conv_in = conv(conv_in)

    def forward(self, x: PendingSum, history: History, first: bool) -> PendingSum:
        out: PendingSum = self.conv_in(x, history)
        return out


class _Head(nn.Module):
    def __init__(self, encoder: Any, quantise: Any, conv: ConvForm) -> None:
        super().__init__()
        self.norm = ChannelNorm(encoder.norm_out)
        self.conv_out = conv(encoder.conv_out)
        self.quantise = conv(quantise)

    def forward(self, x: PendingSum, history: History, first: bool) -> PendingSum:
        out: PendingSum = self.quantise(self.conv_out(x, history, self.norm), history)
        return out


class Downsample(nn.Module):
    """Halves the size and, with ``time_conv``, the frame rate of every frame but the video's first."""

    def __init__(self, resample: Any, conv: ConvForm) -> None:
        super().__init__()
        self.conv = conv(resample.resample[1])
        self.time_conv = conv(resample.time_conv) if resample.mode == "downsample3d" else None

    def forward(self, x: PendingSum, history: History, first: bool) -> PendingSum:
        """Halve the height and width, and with ``time_conv`` the number of frames."""
        halved: PendingSum = self.conv(x, history)
        if self.time_conv is None:
            return halved
        if first:
            return self.time_conv.begin(halved, history)
        fewer: PendingSum = self.time_conv(halved, history, keep=False)
        return fewer


class ResidualDownBlock(nn.Module):
    """Residual blocks and a downsampling, with an averaging shortcut around them."""

    def __init__(self, block: Any, conv: ConvForm) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResidualBlock(resnet, conv) for resnet in block.resnets)
        self.downsample = None if block.downsampler is None else Downsample(block.downsampler, conv)
        shortcut = block.avg_shortcut
        self._average = partial(
            Averaged,
            channels=int(shortcut.out_channels),
            time=int(shortcut.factor_t),
            size=int(shortcut.factor_s),
        )

    def forward(self, x: PendingSum, history: History, first: bool) -> PendingSum:
        """Run the block: with a downsampling, the frames come out smaller and possibly fewer of them."""
        entered = x
        for resnet in self.resnets:
            x = resnet(x, history, first)
        if self.downsample is not None:
            x = self.downsample(x, history, first)
        averaged = self._average(entered.whole())
        if averaged.group == 1:
            return x.plus(PendingSum(averaged.values))
        if x.residual is not None:
            x.whole()
        x.residual = averaged
        return x


def down_layer(layer: Any, conv: ConvForm) -> Layer:
    """Build the counterpart of one of the stored encoder's layers, which its parts tell apart."""
    if hasattr(layer, "avg_shortcut"):
        return ResidualDownBlock(layer, conv)
    if hasattr(layer, "conv_shortcut"):
        return ResidualBlock(layer, conv)
    return PictureAttention(layer) if hasattr(layer, "to_qkv") else Downsample(layer, conv)


class Encoding:
    """An encoding run over a video, which skips layers whose result is known.

    The encoder's receptive field in time is limited. Where chunks repeat, a layer with the same input and the
    same history as for the chunk before has the same output, to the last bit: it has settled, and is skipped
    until a different chunk comes. The first layers, which have the largest frames, settle first. That a
    history is the same follows from how far back it reaches: no value is looked at, which would make the host
    wait for the device.

    If ``parked``, its history lies on the host between chunks.
    """

    def __init__(self, encoder: Encoder, strips: Strips, parked: bool = False) -> None:
        self._encoder = encoder
        self._strips = strips
        self._parked = parked
        self._strip_history, self._history = History(strips), History()
        self._repeated = 0
        """Frames that repeat what came before them, with those that they repeat first."""
        self._settled = 0
        """Number of settled layers, counted from the first."""
        self._settled_output: PendingSum | None = None
        """Output of the last settled layer; where none has settled, this rank's part of the frames that may
        repeat.
        """
        self._first = True

    def __call__(self, chunk: Tensor | None) -> Tensor:
        """Encode frames ``[n, 3, height, width]``; None repeats those of the last latent frame.

        The first chunk is the first frame alone; every other chunk has the frames of one or more latent
        frames. Returns the posterior's mean and log-variance, ``[latents, 2 · z, height / stride, width /
        stride]``, on every rank.
        """
        if chunk is not None:
            self._device = chunk.device
        self._move(self._device)
        settled = 0
        if chunk is None:
            assert self._settled_output is not None, "there is no chunk before the first"
            x = self._settled_output
            settled = bisect_right(self._encoder.memories, self._repeated)
        else:
            patches = self._strip_history.cut(_patchify(chunk, self._encoder.patch))
            x = PendingSum(patches)
            self._repeated, self._settled = 0, 0
            self._settled_output = PendingSum(patches[-self._encoder.stride :])
        for index in range(self._settled, len(self._encoder.layers)):
            x = self._run(index, x)
            if index < settled:
                self._settled, self._settled_output = index + 1, x
        self._repeated += self._encoder.stride
        self._first = False
        latents = x.whole()
        self._move(torch.device("cpu"))
        return latents

    def _move(self, device: torch.device) -> None:
        if self._parked and self._settled_output is not None:
            self._settled_output.move(device)
            self._strip_history.move(device)
            self._history.move(device)

    def _run(self, index: int, x: PendingSum) -> PendingSum:
        if index == self._encoder.whole_from and self._strips.several:
            x = PendingSum(channels_last(self._strips.whole(x.whole())))
        out: PendingSum = self._encoder(index, x, self._history_of(index), self._first)
        return out

    def _history_of(self, index: int) -> History:
        return self._strip_history if index < self._encoder.whole_from else self._history


def _attends(layer: nn.Module) -> bool:
    return any(isinstance(part, Middle | PictureAttention) for part in layer.modules())


def _memories(layers: Iterable[nn.Module]) -> Iterator[int]:
    """Add up the frames that convolutions look back on: what one remembers is made by those before it."""
    memory, rate = 0, 1
    for layer in layers:
        for part in layer.modules():
            if isinstance(part, CausalConv):
                memory += part.past * rate
                rate *= part.step
        yield memory


def _patchify(frames: Tensor, patch: int) -> Tensor:
    """Rearrange squares of pixels into channels: ``[t, c, h·p, w·p]`` to ``[t, c·p·p, h, w]``."""
    if patch == 1:
        return frames
    # t c (h ph) (w pw) -> t (c pw ph) h w
    squares = frames.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
    return channels_last(squares.permute(0, 1, 5, 3, 2, 4).flatten(1, 3))
