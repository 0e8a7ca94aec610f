"""Latent frames that are known before a run begins."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class KnownLatents:
    """The first latent frames of a video, ``[1, z, n, height, width]``, which replace the denoised ones.

    With ``noise`` of the same shape, the frames are noised to the run's current sigma, and the model sees no
    difference to other frames. Without it, the frames stay clean, and their timestep for the model is 0.
    """

    latents: Tensor
    noise: Tensor | None = None

    @property
    def clean(self) -> bool:
        """True if the latents stay free of noise."""
        return self.noise is None

    def placed(self, latents: Tensor, sigma: float) -> Tensor:
        """Return ``latents``, which are at noise level ``sigma``, with the known frames in their place."""
        known = self.latents
        if self.noise is not None:
            known = torch.lerp(known, self.noise, sigma)  # (1 − σ)·x0 + σ·ε, see models.pipeline.sampling
        return torch.cat([known, latents[:, :, known.shape[2] :]], dim=2)
