"""Image and video conditioning: turns a request's pictures into inputs of the transformer, in the model's own
way.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from models.conditioning.image_encoder import ImageEncoder
from models.conditioning.known_latents import KnownLatents
from models.engine import Frames, GenerationRequest, Picture
from models.vae.streaming_vae import StreamingVae
from models.variants import Variant


@dataclass(frozen=True, slots=True)
class Condition:
    """Conditioning inputs made from a run's pictures; all None for a run without pictures."""

    known: KnownLatents | None = None
    """Known latent frames at the start of the video."""
    channels: Tensor | None = None
    """Input channels concatenated to the noisy latents, ``[1, stride + z, frames, height, width]``."""
    embeddings: Tensor | None = None
    """Image embeddings for cross-attention, ``[pictures, tokens, dim]``."""
    control: Tensor | None = None
    """Input of the control (VACE) blocks, ``[1, control channels, frames, height, width]``."""


class Conditioner(Protocol):
    """A way of conditioning a transformer on pictures."""

    def __call__(self, request: GenerationRequest) -> Condition:
        """Encode the pictures of a request."""


def conditioner(variant: Variant, vae: StreamingVae, encoder: ImageEncoder | None) -> Conditioner:
    """Return the conditioner of this model."""
    if variant.control_blocks:
        return VideoControl(vae, variant)
    if variant.image_channels:
        return ImageChannels(vae, variant, encoder)
    return KnownFirstFrame(vae)


def encodes(variant: Variant, request: GenerationRequest) -> bool:
    """Return whether a model's conditioner encodes anything for a request."""
    return variant.control_blocks > 0 or variant.image_channels or request.image is not None


class KnownFirstFrame:
    """Replaces the first latent frame by the encoded first frame, at timestep 0 (Wan2.2-TI2V-5B)."""

    def __init__(self, vae: StreamingVae) -> None:
        self._vae = vae

    def __call__(self, request: GenerationRequest) -> Condition:
        """Encode the first frame as a known latent, if the request has one."""
        if request.image is None:
            return Condition()
        return Condition(known=KnownLatents(self._vae.encode(_pixels(request.image))))


class ImageChannels:
    """Concatenates to the input a mask of the given frames, and latents of the video with gray for missing
    frames.

    The mask has one channel for each of the frames that a latent frame represents. The first latent frame
    represents one frame, whose value fills all mask channels. A model with an image encoder attends to the
    pictures as well, or to the first frame alone.
    """

    def __init__(self, vae: StreamingVae, variant: Variant, encoder: ImageEncoder | None) -> None:
        self._vae = vae
        self._stride = variant.temporal_stride
        self._embedded = variant.embedded_pictures
        self._encoder = encoder

    def __call__(self, request: GenerationRequest) -> Condition:
        """Encode the given frames as input channels, and embed them if the model has an image encoder."""
        embeddings = None
        if self._encoder is not None:
            given = [picture for picture in (request.image, request.last_image) if picture is not None]
            embeddings = self._encoder.encode(given[: self._embedded])
        return Condition(channels=self._channels(request), embeddings=embeddings)

    def _channels(self, request: GenerationRequest) -> Tensor:
        latents = self._vae.encode_frames(_given_or_gray(request))
        mask = latents.new_zeros(1, self._stride, *latents.shape[2:])
        mask[:, :, 0] = float(request.image is not None)
        if request.last_image is not None:
            mask[:, -1, -1] = 1.0
        return torch.cat([mask, latents], dim=1)


class VideoControl:
    """Input of the control blocks (VACE): latents of the kept pixels, latents of the changed pixels, and the
    mask.

    Both videos are gray where the other one applies. For a given video, the request's mask marks the pixels
    to change; without a mask all of them change. Without a video, the frames of given pictures are kept, and
    all other frames change from gray. The mask has one channel for each pixel that a latent pixel represents.
    Reference pictures are latent frames of their own before the first frame. See Jiang et al. 2025, "VACE",
    arXiv:2503.07598.
    """

    def __init__(self, vae: StreamingVae, variant: Variant) -> None:
        self._vae = vae
        self._variant = variant

    def __call__(self, request: GenerationRequest) -> Condition:
        """Encode the changed pixels, the kept pixels and the mask."""
        changed = self._vae.encode_frames(_parts(request, changing=True))
        # for a video from text alone both videos are all gray: encode one
        gray = request.video is None and request.image is None
        kept = changed if gray else self._vae.encode_frames(_parts(request, changing=False))
        video = torch.cat([kept, changed], dim=1)
        control = torch.cat([video, self._mask(request).to(video)], dim=1)
        return Condition(control=torch.cat([*self._references(request), control], dim=2))

    def _mask(self, request: GenerationRequest) -> Tensor:
        """Return the mask ``[1, stride², latent frames, h, w]``, for each latent frame that of its middle."""
        size = self._variant.latent_frames(request.num_frames)
        places = torch.arange(request.num_frames, dtype=torch.float32)[None, None]
        nearest = F.interpolate(places, size=size, mode="nearest-exact").flatten().int().tolist()
        masks = torch.stack([_changes(request, place) for place in nearest])
        return F.pixel_unshuffle(masks[:, None], self._variant.spatial_stride).transpose(0, 1)[None]

    def _references(self, request: GenerationRequest) -> list[Tensor]:
        """Encode the reference pictures, each as a latent frame; the last reference comes first."""
        frames = []
        for picture in request.references:
            latents = self._vae.encode(_letterboxed(picture, request.width, request.height))
            missing = self._variant.control_channels - latents.shape[1]
            frames.append(F.pad(latents, (0, 0, 0, 0, 0, 0, 0, missing)))
        return frames[::-1]


def _given_or_gray(request: GenerationRequest) -> Iterator[Tensor]:
    """Yield the video's frames ``[3, height, width]``, gray where none is given."""
    gray = torch.zeros(3, request.height, request.width)
    for place in range(request.num_frames):
        picture = _given(request, place)
        yield gray if picture is None else _pixels(picture)[0, :, 0]


def _parts(request: GenerationRequest, changing: bool) -> Iterator[Tensor]:
    """Yield the video's frames, gray for pixels that stay or, with ``changing`` false, that change."""
    for place, frame in enumerate(_given_or_gray(request)):
        shown = (_changes(request, place) > 0.5) == changing
        yield torch.where(shown, frame, 0.0)


def _changes(request: GenerationRequest, place: int) -> Tensor:
    """Return a frame's mask ``[height, width]``: 0 keeps a pixel, 1 changes it."""
    if request.mask is not None:
        return torch.from_numpy(request.mask[place].copy()).float() / 255.0
    kept = request.video is None and _given(request, place) is not None
    return torch.full((request.height, request.width), float(not kept))


def _given(request: GenerationRequest, place: int) -> Picture | None:
    """Return the request's frame or picture at index ``place``; None where none is given."""
    if request.video is not None:
        frame: Picture = request.video[place]
        return frame
    if place == 0:
        return request.image
    return request.last_image if place == request.num_frames - 1 else None


def _letterboxed(picture: Picture, width: int, height: int) -> Tensor:
    """Fit the whole picture into the middle of a white frame, ``[1, 3, 1, height, width]`` in −1 … 1."""
    pixels = _pixels(picture)[:, :, 0]
    scale = min(height / pixels.shape[2], width / pixels.shape[3])
    fitted = max(int(pixels.shape[2] * scale), 1), max(int(pixels.shape[3] * scale), 1)
    top, left = (height - fitted[0]) // 2, (width - fitted[1]) // 2
    frame = torch.ones(1, 3, 1, height, width)
    frame[:, :, 0, top : top + fitted[0], left : left + fitted[1]] = F.interpolate(
        pixels, size=fitted, mode="bilinear", align_corners=False
    )
    return frame


def pixels(frames: Frames) -> Tensor:
    """Convert uint8 frames ``[n, height, width, 3]`` to a video ``[1, 3, n, height, width]`` in −1 … 1."""
    levels = torch.from_numpy(frames.copy()).permute(3, 0, 1, 2).float()
    return (levels / 255.0 * 2.0 - 1.0)[None]


def _pixels(picture: Picture) -> Tensor:
    return pixels(picture[None])
