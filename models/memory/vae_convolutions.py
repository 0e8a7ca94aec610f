"""The convolutions of Wan's VAE as data, from which its parameters, work and memory are computed.

Covers both forms: Wan 2.1's, and Wan 2.2's residual one with shortcuts around blocks and 2 x 2 patches as
channels. The norms between the convolutions are too small to count. Imports no torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from models.variants import Variant

_MULTIPLES = (1, 2, 4, 4)
"""Channels at each resolution, from the highest to the lowest, as multiples of the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv:
    """A convolution over ``kernel x kernel`` pixels of the current and ``taps - 1`` past frames."""

    inputs: int
    outputs: int
    taps: int = 3
    kernel: int = 3
    scale: int
    """Output pixels per latent pixel, along each side."""
    rate: int
    """Output frames per latent frame. The first latent frame represents one frame at any rate."""
    beside: int = 0
    """Channels of other tensors alive at this size and rate during the convolution."""
    enlarges: bool = False
    """True if the input is half as high and wide: a transposed convolution does what two operations did."""
    begins: bool = False
    """True of the decoder's layers that take many chunks at once."""
    in_8_bits: int = 0
    """Values alive per output pixel that take a byte each where the largest sizes are convolved in 8 bits."""
    strip: bool = True
    """True if each rank of a group computes its strip of the pictures only."""

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        return self.outputs * (self.inputs * self.taps * self.kernel**2 + 1)

    @property
    def sources(self) -> int:
        """Pixels of a frame that an output pixel is made of."""
        return 4 if self.enlarges else self.kernel**2

    @property
    def doubles_time(self) -> bool:
        """True if the convolution makes two frames of each frame but the video's first."""
        return self.taps > 1 and self.kernel == 1

    @property
    def alive(self) -> int:
        """Values alive per output pixel: input, output and ``beside``."""
        inputs = self.inputs // 4 if self.enlarges else self.inputs
        return inputs + self.outputs + self.beside


def decoder(variant: Variant) -> Iterator[Conv]:
    """Yield the decoder's convolutions, in the order a latent frame passes through them."""
    residual, patch = _form(variant)
    dims = [variant.vae_dim * multiple for multiple in (*_MULTIPLES[-1:], *_MULTIPLES[::-1])]
    z, last = variant.latent_channels, len(_MULTIPLES) - 1
    yield Conv(inputs=z, outputs=z, taps=1, kernel=1, scale=1, rate=1, begins=True, strip=False)
    yield Conv(inputs=z, outputs=dims[0], scale=1, rate=1, begins=True, strip=False)
    for conv in _middle(dims[0], scale=1, rate=1):
        yield replace(conv, begins=True, strip=False)
    scale = rate = 1
    for level, (inputs, outputs) in enumerate(pairwise(dims)):
        doubles = level < last and _doubles_time(last - 1 - level)
        faster = 2 if doubles else 1
        arriving = inputs // 2 if level and not residual else inputs
        # with a shortcut around it, the block's input stays alive until its end
        waiting = arriving if residual and level < last else 0
        for block in range(variant.vae_blocks + 1):
            for conv in _residual_block(arriving, outputs, scale, rate, waiting if block else 0):
                in_8_bits = conv.inputs if level >= last - 1 and conv.taps > 1 else 0
                yield replace(conv, begins=level == 0 and not residual, in_8_bits=in_8_bits)
            arriving = outputs
        if level == last:
            continue
        if doubles:
            yield Conv(inputs=outputs, outputs=2 * outputs, kernel=1, scale=scale, rate=rate, beside=waiting)
        scale, rate = 2 * scale, rate * faster
        yield Conv(
            inputs=outputs,
            outputs=outputs if residual else outputs // 2,
            taps=1,
            scale=scale,
            rate=rate,
            enlarges=True,
            # the frames before they were put in a row; with a shortcut, later, its copy, and the volume into
            # which both are added
            beside=2 * outputs if residual else outputs // 4,
            in_8_bits=outputs if residual and level >= last - 2 else 0,
        )
    # what is normed for the last is a sum of two, which are gone when its few channels are made
    colours = 3 * patch**2
    yield Conv(inputs=dims[-1], outputs=colours, scale=scale, rate=rate, beside=2 * dims[-1] - colours)


def encoder(variant: Variant) -> Iterator[Conv]:
    """Yield the encoder's convolutions, in the order frames pass through them."""
    residual, patch = _form(variant)
    dims = [variant.vae_encoder_dim * multiple for multiple in (1, *_MULTIPLES)]
    z, last = variant.latent_channels, len(_MULTIPLES) - 1
    scale, rate = 2**last, variant.temporal_stride
    yield Conv(inputs=3 * patch**2, outputs=dims[0], scale=scale, rate=rate)
    for level, (inputs, outputs) in enumerate(pairwise(dims)):
        arriving = inputs
        for block in range(variant.vae_blocks):
            yield from _residual_block(arriving, outputs, scale, rate, inputs if residual and block else 0)
            arriving = outputs
        if level == last:
            continue
        scale //= 2
        yield Conv(inputs=outputs, outputs=outputs, taps=1, scale=scale, rate=rate, beside=11 * outputs)
        if _doubles_time(level):
            rate //= 2
            yield Conv(inputs=outputs, outputs=outputs, kernel=1, scale=scale, rate=rate)
    yield from _middle(dims[-1], scale, rate)
    yield Conv(inputs=dims[-1], outputs=2 * z, scale=scale, rate=rate)
    yield Conv(inputs=2 * z, outputs=2 * z, taps=1, kernel=1, scale=scale, rate=rate)


def _form(variant: Variant) -> tuple[bool, int]:
    """Return whether the VAE is residual, and the side of its pixel patches."""
    patch = variant.spatial_stride // 2 ** (len(_MULTIPLES) - 1)
    return patch > 1, patch


def _doubles_time(level: int) -> bool:
    """Return whether the frame rate changes below this resolution; level 0 is the highest."""
    return level > 0


def _middle(dim: int, scale: int, rate: int) -> Iterator[Conv]:
    yield from _residual_block(dim, dim, scale, rate, 0)
    yield Conv(inputs=dim, outputs=3 * dim, taps=1, kernel=1, scale=scale, rate=rate, beside=dim)
    yield Conv(inputs=dim, outputs=dim, taps=1, kernel=1, scale=scale, rate=rate, beside=4 * dim)
    yield from _residual_block(dim, dim, scale, rate, 0)


def _residual_block(inputs: int, outputs: int, scale: int, rate: int, waiting: int) -> Iterator[Conv]:
    """Yield a residual block's convolutions; its input and ``waiting`` outer channels stay alive."""
    shortcut = outputs if inputs != outputs else 0
    if shortcut:
        beside = waiting + outputs  # the first convolution's result
        yield Conv(inputs=inputs, outputs=outputs, taps=1, kernel=1, scale=scale, rate=rate, beside=beside)
    yield Conv(inputs=inputs, outputs=outputs, scale=scale, rate=rate, beside=waiting + inputs)
    yield Conv(inputs=outputs, outputs=outputs, scale=scale, rate=rate, beside=waiting + inputs + shortcut)
