"""Latent frames that are known before a run begins."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class KnownLatents:
    """The first latent frames of a video, ``[1, z, n, height, width]``, that replace denoised ones.

    With ``noise``, of the same shape, they are kept at the noise level that the run has come to; the model
    need not know of them. Without, they are always clean, and the model is told by their timestep, 0.
    """

    latents: Tensor
    noise: Tensor | None = None

    @property
    def clean(self) -> bool:
        """Whether the latents are held without noise."""
        return self.noise is None

    def placed(self, latents: Tensor, sigma: float) -> Tensor:
        """``latents`` at the noise level ``sigma``, with the known frames in their place."""
        known = self.latents
        if self.noise is not None:
            known = torch.lerp(known, self.noise, sigma)  # (1 − σ)·x0 + σ·ε, see models.pipeline.sampling
        return torch.cat([known, latents[:, :, known.shape[2] :]], dim=2)
