"""Wan's VAE on whole clips at once, for training: computes what diffusers' ``AutoencoderKLWan`` computes.

diffusers runs the VAE one latent frame at a time with a cache of the frames before, which gradients would
have to cross again and again. A training clip begins with the video's first frame, so no cache is needed
here: each convolution is padded with zeros in time.
"""

from functools import partial
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample, patchify, unpatchify
from torch import Tensor


class WholeClipVae:
    """Take over ``vae``: afterwards its modules work on whole clips only."""

    def __init__(self, vae: Any) -> None:
        self._vae = vae
        self._patch: int = vae.config.patch_size or 1
        for layer in vae.modules():
            if isinstance(layer, WanResample):
                layer.forward = partial(_resampled, layer)

    def moments(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Encode ``[n, 3, 4k + 1, H, W]`` to the latents' mean and log-variance, ``[n, z, f, h, w]`` each."""
        pixels = patchify(video, self._patch) if self._patch > 1 else video
        mean, log_variance = self._vae.quant_conv(self._vae.encoder(pixels)).chunk(2, dim=1)
        return mean, log_variance

    def decoded(self, latents: Tensor) -> Tensor:
        """Decode to a video ``[n, 3, 4k + 1, H, W]``, unclamped: clamping would cut gradients."""
        pixels = self._vae.decoder(self._vae.post_quant_conv(latents), first_chunk=True)
        video: Tensor = unpatchify(pixels, self._patch) if self._patch > 1 else pixels
        return video


def _resampled(layer: Any, x: Tensor, feat_cache: None = None, feat_idx: object = None) -> Tensor:
    """Compute ``WanResample.forward`` over all chunks; the first frame stays one frame at any rate."""
    if layer.mode == "upsample3d" and x.shape[2] > 1:
        later = layer.time_conv(x[:, :, 1:])
        # two frames of each, as twice the channels: n (2 c) t h w -> n c (t 2) h w
        later = later.unflatten(1, (2, -1)).movedim(1, 3).flatten(2, 3)
        x = torch.cat([x[:, :, :1], later], dim=2)
    frames = x.transpose(1, 2)
    pictures = layer.resample(frames.flatten(0, 1))
    x = pictures.unflatten(0, frames.shape[:2]).transpose(1, 2)
    if layer.mode == "downsample3d" and x.shape[2] > 1:
        x = torch.cat([x[:, :, :1], layer.time_conv(x)], dim=2)
    return x
