"""Dummy forward pass on random inputs in the shapes of real runs, for compilation and for comparisons."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from models.attention.cross_attention import stacked
from models.transformer.denoiser import Denoiser
from models.variants import PICTURE_TOKENS, Variant

_PROMPT_TOKENS = 16
_TIMESTEP = 500.0


@dataclass(frozen=True, slots=True)
class DummyShape:
    """Shape of a dummy forward. ``frames``, ``height`` and ``width`` are in latent pixels."""

    frames: int
    height: int
    width: int
    prompts: int = 1
    """Number of prompts in the batch."""
    timestep_per_frame: bool = False


@torch.inference_mode()
def dummy_forward(
    denoiser: Denoiser, variant: Variant, config: Any, shape: DummyShape, encoder: Denoiser | None = None
) -> Tensor:
    """Predict a velocity from seeded random inputs, ``[prompts, channels, frames, height, width]``.

    The inputs are the same on every call. ``config``: the transformer's configuration. ``encoder``: computes
    the keys of prompts and pictures in place of ``denoiser``. With a ``denoiser`` of a group, every rank
    calls this.
    """
    encoder = encoder or denoiser
    generator = torch.Generator("cpu").manual_seed(0)

    def noise(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(denoiser.device)

    video = (shape.frames, shape.height, shape.width)
    latents = noise(1, variant.input_channels, *video)
    control = noise(1, variant.control_channels, *video) if variant.control_blocks else None
    prompts = [encoder.text(noise(_PROMPT_TOKENS, config.text_dim)) for _ in range(shape.prompts)]
    prompt = stacked(prompts) if len(prompts) > 1 else prompts[0]
    if variant.image_tokens:
        embeddings = noise(variant.embedded_pictures, PICTURE_TOKENS, config.image_dim)
        prompt = replace(prompt, image=encoder.image(embeddings))
    rows = shape.frames if shape.timestep_per_frame else 1
    timesteps = torch.full((rows,), _TIMESTEP, device=denoiser.device)
    return denoiser(latents, timesteps, prompt, denoiser.rotation(latents), control)
