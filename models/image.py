"""A picture to the clean first latent frame of an image-to-video run."""

import torch
from torch import Tensor

from models.engine import Picture
from models.vae import StreamingVae


def first_latent_frame(vae: StreamingVae, picture: Picture) -> Tensor:
    """The picture, RGB ``[height, width, 3]``, as float32 latents ``[1, z, 1, height / s, width / s]``."""
    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1).float()
    video = (pixels / 255.0 * 2.0 - 1.0)[None, :, None]
    return vae.encode(video)
