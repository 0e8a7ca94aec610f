"""Pictures to what the transformer is shown of them. Which way it is depends on the model."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.engine import GenerationRequest, Picture
from models.image_encoder import ImageEncoder
from models.vae import StreamingVae
from models.variants import Variant


@dataclass(frozen=True, slots=True)
class Condition:
    """What a run's pictures became; nothing for a run without."""

    first_frame: Tensor | None = None
    """The clean first latent frame, ``[1, z, 1, height, width]``, which is held in place of a noisy one."""
    channels: Tensor | None = None
    """Input channels beside the noisy latents, ``[1, stride + z, frames, height, width]``."""
    embeddings: Tensor | None = None
    """What the blocks attend to beside the prompt, ``[pictures, tokens, dim]``."""


class Conditioner(Protocol):
    """One way of showing pictures to a transformer."""

    def __call__(self, request: GenerationRequest) -> Condition: ...


def conditioner(variant: Variant, vae: StreamingVae, encoder: ImageEncoder | None) -> Conditioner:
    """The way of this model."""
    if variant.image_channels:
        return ImageChannels(vae, variant.temporal_stride, encoder)
    return HeldFrame(vae)


class HeldFrame:
    """The first frame replaces the first latent frame, and is told to be free of noise."""

    def __init__(self, vae: StreamingVae) -> None:
        self._vae = vae

    def __call__(self, request: GenerationRequest) -> Condition:
        if request.image is None:
            return Condition()
        return Condition(first_frame=self._vae.encode(_pixels(request.image)))


class ImageChannels:
    """The whole video as latents, gray where no picture is given, behind a mask of what is given.

    The mask has a channel for each of the ``stride`` frames that a latent frame stands for. The first latent
    frame stands for one, which fills them all. A model with an image encoder attends to the pictures too.
    """

    def __init__(self, vae: StreamingVae, stride: int, encoder: ImageEncoder | None) -> None:
        self._vae = vae
        self._stride = stride
        self._encoder = encoder

    def __call__(self, request: GenerationRequest) -> Condition:
        embeddings = None
        if self._encoder is not None:
            given = [picture for picture in (request.image, request.last_image) if picture is not None]
            embeddings = self._encoder.encode(given)
        return Condition(channels=self._channels(request), embeddings=embeddings)

    def _channels(self, request: GenerationRequest) -> Tensor:
        video = torch.zeros(1, 3, request.num_frames, request.height, request.width)
        if request.image is not None:
            video[:, :, :1] = _pixels(request.image)
        if request.last_image is not None:
            video[:, :, -1:] = _pixels(request.last_image)
        latents = self._vae.encode(video)
        mask = latents.new_zeros(1, self._stride, *latents.shape[2:])
        mask[:, :, 0] = float(request.image is not None)
        if request.last_image is not None:
            mask[:, -1, -1] = 1.0
        return torch.cat([mask, latents], dim=1)


def _pixels(picture: Picture) -> Tensor:
    """RGB ``[height, width, 3]`` as a video of one frame ``[1, 3, 1, height, width]`` in −1 … 1."""
    levels = torch.from_numpy(picture.copy()).permute(2, 0, 1).float()
    return (levels / 255.0 * 2.0 - 1.0)[None, :, None]
