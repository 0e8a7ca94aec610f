"""Flow-matching training of transformer and text encoder (Lipman et al., arXiv:2210.02747).

x_σ = (1 − σ)·x0 + σ·ε, and the target is the velocity ε − x0. A share of the samples has a clean first latent
frame, marked by its timestep 0, so that one model makes videos from text and from a picture.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from models.pipeline.sampling import TRAIN_TIMESTEPS
from training.prompts import PromptEncoder, at_step, wordings
from training.velocity import Velocity

SHIFT = 4.0
"""Flow shift: moves noise levels towards 1, where the content of the video is decided."""
DROPPED = 0.1
GIVEN = 0.3


def loss(
    velocity: Velocity, prompts: PromptEncoder, latents: Tensor, seed: int, step: int, batch: int
) -> Tensor:
    """Compute the mean squared error of one batch drawn from the normalised ``latents`` ``[count, z, f, h,
    w]``.
    """
    generator, random = at_step(seed, step)
    device = latents.device
    numbers = torch.randint(len(latents), (batch,), generator=generator)
    clean = latents[numbers.to(device)].float()
    noise = torch.randn(clean.shape, generator=generator).to(device)
    level = torch.rand(batch, generator=generator)
    level = SHIFT * level / (1 + (SHIFT - 1) * level)
    levels = level[:, None].repeat(1, clean.shape[2])  # noise level of each latent frame, [n, f]
    levels[torch.rand(batch, generator=generator) < GIVEN, 0] = 0.0
    levels = levels.to(device)
    embedded = prompts(wordings(numbers.tolist(), random, DROPPED))
    sigma = levels[:, None, :, None, None]
    predicted = velocity((1 - sigma) * clean + sigma * noise, levels * TRAIN_TIMESTEPS, embedded)
    return error(predicted, noise - clean, levels)


def error(predicted: Tensor, wanted: Tensor, levels: Tensor) -> Tensor:
    """Compute the mean squared error of velocities ``[n, z, f, h, w]`` over the latent frames that are not
    clean.
    """
    counts = (levels > 0)[:, None, :, None, None]
    squares = (predicted - wanted) ** 2 * counts
    return squares.sum() / (counts.sum() * wanted[0, :, 0].numel())


@torch.no_grad()
def sampled(
    velocity: Velocity,
    prompts: PromptEncoder,
    texts: Sequence[str],
    noise: Tensor,
    *,
    sigmas: Sequence[float],
    guidance_scale: float,
    first: Tensor | None = None,
) -> Tensor:
    """Denoise ``noise`` ``[n, z, f, h, w]`` by Euler's method along ``sigmas``, the last of which is 0.

    ``first``: known first latent frames ``[n, z, 1, h, w]``, or None.
    """
    conditional = prompts(list(texts))
    unconditional = prompts([""] * len(texts))
    x = noise.clone()
    for sigma, following in pairwise(sigmas):
        levels = torch.full((len(texts), noise.shape[2]), sigma * TRAIN_TIMESTEPS, device=noise.device)
        if first is not None:
            x[:, :, :1] = first
            levels[:, 0] = 0.0
        v = velocity(x, levels, conditional)
        if guidance_scale != 1:
            v = v + (guidance_scale - 1) * (v - velocity(x, levels, unconditional))
        x = x + (following - sigma) * v
    if first is not None:
        x[:, :, :1] = first
    return x
