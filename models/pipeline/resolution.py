"""Progressive resolution: the first steps of a run at half the height and width.

At a high noise level what is fine in a video is lost in the noise, so early steps settle what is large, of
which a quarter of the pixels tells as much ("Spectral Progressive Diffusion", arXiv:2605.18736). Then the
prediction of the clean latents is enlarged and mixed with noise of full size, to the level of the next step:
x = (1 - σ)·x0 + σ·ε, as in every flow-matching run. So that noise has the variance and the independence the
model knows; enlarging the noisy latents would enlarge their noise, too, which is white at no other size.
"""

from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Shape: TypeAlias = tuple[int, int, int, int, int]
"""Of latents: ``[1, channels, frames, height, width]``."""


def halved(shape: Shape, patch: int) -> Shape:
    """Return the shape of latents of half the height and width, rounded up to whole patches."""
    *others, height, width = shape
    height, width = (-(-size // (2 * patch)) * patch for size in (height, width))
    return others[0], others[1], others[2], height, width


def drawn(seed: int, *shapes: Shape) -> list[Tensor]:
    """Draw noise of each shape, one after the other, on the CPU: a seed gives the same on any device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float32) for shape in shapes]


def enlarged(latents: Tensor, like: Tensor) -> Tensor:
    """Enlarge clean latents, frame by frame and bicubically, to the height and width of ``like``."""
    frames = F.interpolate(latents[0].transpose(0, 1), like.shape[-2:], mode="bicubic")
    return frames.transpose(0, 1)[None].contiguous()


def raised(clean: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """Return latents of the noise's size at the noise level ``sigma``, from a smaller prediction of x0."""
    return (1.0 - sigma) * enlarged(clean, noise) + sigma * noise
