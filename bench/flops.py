"""Floating point operations counted from shapes: a multiplication and the addition after it are two.

All work that grows with the tokens or the pixels is counted; norms, activations and the embedding of a
timestep are less than a hundredth and are not. Imports no torch.
"""

from dataclasses import dataclass
from typing import Self

from models.limits import TEXT_TOKENS
from models.memory import vae_convolutions
from models.variants import Variant


@dataclass(frozen=True, slots=True)
class Flops:
    """The operations of one forward pass for one prompt."""

    linear: int
    attention: int

    @property
    def total(self) -> int:
        """The operations of all parts together."""
        return self.linear + self.attention

    def times(self, count: int) -> Self:
        """Return the operations of ``count`` of these."""
        return type(self)(count * self.linear, count * self.attention)


def forward(variant: Variant, width: int, height: int, num_frames: int) -> Flops:
    """Count the transformer's operations, text keys and values left out, which are made once a run."""
    tokens, dim = variant.tokens(width, height, num_frames), variant.dim
    patch = variant.patch**2
    block = 6 * dim * dim + 2 * dim * variant.ffn_dim  # four projections of self-attention, two of the text's
    ends = dim * patch * (variant.input_channels + variant.latent_channels)
    blocks = variant.layers + variant.control_blocks
    linear = blocks * block + ends
    if variant.control_blocks:
        linear += dim * patch * variant.control_channels + (1 + variant.control_blocks) * dim * dim
    keys = blocks * (tokens + TEXT_TOKENS) + variant.layers * variant.image_tokens
    return Flops(linear=2 * tokens * linear, attention=4 * tokens * dim * keys)


def decode(variant: Variant, width: int, height: int, num_frames: int) -> int:
    """Count the VAE decoder's operations; a first frame has no earlier frame to convolve with."""
    rows, columns = height // variant.spatial_stride, width // variant.spatial_stride
    later = variant.latent_frames(num_frames) - 1
    total = 0
    for conv in vae_convolutions.decoder(variant):
        alone = 0 if conv.doubles_time else 1
        taps = conv.rate * later * conv.taps + alone
        total += 2 * taps * rows * columns * conv.scale**2 * conv.inputs * conv.outputs * conv.sources
    channels = 4 * variant.vae_dim
    return total + 4 * (later + 1) * (rows * columns) ** 2 * channels
