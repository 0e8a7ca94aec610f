"""The clips' latents, encoded once and cached: the transformer's training data."""

import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from training.dataset import as_video, clip
from training.whole_clip import WholeClipVae

_BATCH = 2


def cached(vae: WholeClipVae, folder: Path, seed: int, count: int, device: torch.device) -> Tensor:
    """Encode the first ``count`` clips: the posterior's means, float16 ``[count, z, f, h, w]``."""
    file = folder / "latents.safetensors"
    if file.is_file():
        with safe_open(file, "pt") as opened:
            known: Tensor = opened.get_tensor("latents")
        if len(known) >= count:
            return known[:count]
    else:
        known = torch.empty(0)
    parts = [known] if len(known) else []
    done = len(known)
    while done < count:
        end = min(done + _BATCH, count)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            video = as_video(clip(seed, number) for number in range(done, end))
            mean, _ = vae.moments(video.to(device))
        parts.append(mean.half().cpu())
        done = end
    latents = torch.cat(parts).contiguous()
    partial = file.with_suffix(".partial")
    save_file({"latents": latents}, partial)
    os.replace(partial, file)
    return latents


def statistics(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the mean and standard deviation of each channel, ``[z]`` each."""
    channels = latents.float().transpose(0, 1).flatten(1)
    return channels.mean(dim=1), channels.std(dim=1)


def normalised(latents: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Normalise latents to zero mean and unit deviation per channel, as the transformer sees them."""
    shape = (1, -1, 1, 1, 1)
    return (latents.float() - mean.view(shape)) / deviation.view(shape)
