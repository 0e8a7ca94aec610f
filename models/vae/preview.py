"""Preview of latents without the decoder: a linear map from each latent pixel to a colour."""

from collections.abc import Iterator
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from models.engine import Frames
from models.vae.streaming_vae import StreamingVae

_CLIPS = 16
_FRAMES = 5
_LATENT_PIXELS = 12
"""Width and height, in latent pixels, of the clips the map is fitted to."""
_RIDGE = 0.01
"""Ridge penalty, in units of the latents' variance: keeps channels that carry little colour out of the
map.
"""


class LatentColours:
    """A linear map from a latent pixel to the mean colour of the pixels it represents.

    Fitted by ridge regression to the VAE's latents of a few synthetic clips, at the first call.
    """

    def __init__(self, vae: StreamingVae) -> None:
        self._vae = vae

    def __call__(self, latents: Tensor) -> Frames:
        """Map latents ``[1, z, f, h, w]`` to RGB pictures ``[f, h, w, 3]``, uint8."""
        weight, bias = self._map
        colours = latents[0].float().movedim(0, -1) @ weight.to(latents.device) + bias.to(latents.device)
        levels = (colours * 0.5 + 0.5).clamp(0.0, 1.0).mul(255.0).round().to(torch.uint8)
        pictures: Frames = levels.contiguous().cpu().numpy()
        return pictures

    @cached_property
    def _map(self) -> tuple[Tensor, Tensor]:
        """Fit and return weights ``[z, 3]`` and bias ``[3]``, for colours in −1 … 1."""
        with torch.inference_mode():
            pairs = [self._samples(clip) for clip in clips(_LATENT_PIXELS * self._vae.spatial_stride)]
        latents, colours = (torch.cat(side).double().cpu() for side in zip(*pairs, strict=True))
        middle, gray = latents.mean(0), colours.mean(0)
        x, y = latents - middle, colours - gray
        ridge = _RIDGE * len(x) * x.var() * torch.eye(x.shape[1], dtype=x.dtype)
        weight = torch.linalg.solve(x.T @ x + ridge, x.T @ y)
        return weight.float(), (gray - middle @ weight).float()

    def _samples(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Return a clip's latent pixels ``[n, z]`` and the mean colour of each one's pixels, ``[n, 3]``."""
        latents = self._vae.encode_frames(clip, alone=True)[0].movedim(0, -1)  # [f, h, w, z]
        pixels = F.avg_pool2d(clip, self._vae.spatial_stride)  # [n, 3, h, w]
        groups = [pixels[:1], *pixels[1:].split(self._vae.temporal_stride)]
        colours = torch.stack([group.mean(0) for group in groups]).movedim(1, -1)
        return latents.flatten(0, 2), colours.flatten(0, 2).to(latents.device)


def clips(pixels: int) -> Iterator[Tensor]:
    """Yield synthetic clips ``[frames, 3, pixels, pixels]`` in −1 … 1, the same on every call.

    They have 1 x 1 to 8 x 8 patches of random colours that change over time, with soft or hard edges.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    for index in range(_CLIPS):
        patches = 1 + index // 2 % 8
        colours = torch.rand(1, 3, 2, patches, patches, generator=generator) * 2.0 - 1.0
        size = (_FRAMES, pixels, pixels)
        soft = F.interpolate(colours, size, mode="trilinear")
        yield (soft if index % 2 else F.interpolate(colours, size, mode="nearest"))[0].transpose(0, 1)
