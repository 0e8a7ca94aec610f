"""Wan's causal video VAE as a stream: frames come out while later ones are still latents.

Built from the weights of diffusers' ``AutoencoderKLWan`` (both the Wan 2.1 form and the residual, patchified
Wan 2.2 form), with its numbers. Frames are a batch of pictures ``[t, channels, height, width]``, channels
last.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.mesh import Mesh
from models.strips import Strips
from models.vae_layers import CausalConv, ChannelNorm, History, Middle, UpBlock, down_layer

DEFAULT_CHUNK_PIXELS = 128 * 1024
"""Video pixels to decode in one go: enough to keep a device busy, few enough to bound its memory."""


class StreamingVae:
    """Latents here are those of the transformer: zero mean, unit deviation per channel, ``[1, z, f, h, w]``.

    Peak memory depends on the frame size and ``chunk_pixels``, not on the number of frames.
    """

    def __init__(self, vae: Any, chunk_pixels: int = DEFAULT_CHUNK_PIXELS, mesh: Mesh | None = None) -> None:
        config = vae.config
        self._mesh = mesh or Mesh()
        self._device: torch.device = vae.device
        self._dtype: torch.dtype = vae.dtype
        self._z_dim: int = config.z_dim
        self._patch: int = config.patch_size or 1
        self._stride: int = config.scale_factor_temporal
        self._spatial_stride: int = config.scale_factor_spatial
        self._chunk_pixels = chunk_pixels
        self._mean = torch.tensor(config.latents_mean, device=self._device).view(1, -1, 1, 1, 1)
        self._deviation = torch.tensor(config.latents_std, device=self._device).view(1, -1, 1, 1, 1)
        self._encoder = _Encoder(vae)
        self._decoder = _Decoder(vae)

    @property
    def networks(self) -> tuple[nn.Module, nn.Module]:
        """The encoder and the decoder."""
        return self._encoder, self._decoder

    def encode(self, video: Tensor) -> Tensor:
        """Video ``[1, 3, 4k + 1, height, width]`` in −1 … 1 to float32 latents, the mode of the posterior."""
        frames = _patched(self._pictures(video), self._patch)
        history = History()
        encoded = [self._encoder(frames[:1], history, first=True)]
        for start in range(1, len(frames), self._stride):
            chunk = frames[start : start + self._stride]
            encoded.append(self._encoder(chunk, history, first=False))
        mode = torch.cat(encoded)[:, : self._z_dim].transpose(0, 1)[None].float()
        return ((mode - self._mean) / self._deviation).contiguous()

    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        """Yield the video as chunks of frames ``[n, 3, height, width]`` in −1 … 1, 4·(f − 1) + 1 in all.

        A group decodes together, strip by strip: every rank iterates, rank 0 alone gets the frames. If it
        stops before the end, so do the others.
        """
        frames = self._pictures(latents.float() * self._deviation + self._mean)
        strips = Strips(self._mesh, frames.shape[2])
        history, strip_history = History(), History(strips)
        first = True
        for chunk in frames.split(self._latents_per_chunk(frames)):
            # not around the yield: the mode would leak into whoever asks for frames
            with torch.inference_mode(), self._mesh.lockstep():
                video = None
                if strips.takes_part:
                    strip = self._decoder(chunk, history, strip_history, first=first)
                    video = strips.joined(_unpatched(strip, self._patch).clamp(-1.0, 1.0))
            if video is not None:
                try:
                    yield video
                except GeneratorExit:
                    self._mesh.agree(leave=True)
                    raise
            if self._mesh.agree(leave=False):
                return
            first = False

    def _pictures(self, video: Tensor) -> Tensor:
        pictures = video[0].transpose(0, 1).to(self._device, self._dtype)
        return pictures.contiguous(memory_format=torch.channels_last)

    def _latents_per_chunk(self, frames: Tensor) -> int:
        pixels = frames.shape[2] * frames.shape[3] * self._spatial_stride**2 * self._stride
        return max(self._chunk_pixels // pixels, 1)


class _Encoder(nn.Module):
    def __init__(self, vae: Any) -> None:
        super().__init__()
        encoder = vae.encoder
        self.conv_in = CausalConv(encoder.conv_in)
        self.down = nn.ModuleList(down_layer(layer) for layer in encoder.down_blocks)
        self.middle = Middle(encoder.mid_block)
        self.norm = ChannelNorm(encoder.norm_out)
        self.conv_out = CausalConv(encoder.conv_out)
        self.quantise = CausalConv(vae.quant_conv)

    @torch.inference_mode()
    def forward(self, x: Tensor, history: History, first: bool) -> Tensor:
        x = self.conv_in(x, history, first)
        for layer in self.down:
            x = layer(x, history, first)
        x = self.middle(x, history, first)
        x = self.conv_out(F.silu(self.norm(x)), history, first)
        out: Tensor = self.quantise(x, history, first)
        return out


class _Decoder(nn.Module):
    def __init__(self, vae: Any) -> None:
        super().__init__()
        decoder = vae.decoder
        self.unquantise = CausalConv(vae.post_quant_conv)
        self.conv_in = CausalConv(decoder.conv_in)
        self.middle = Middle(decoder.mid_block)
        self.up = nn.ModuleList(UpBlock(block) for block in decoder.up_blocks)
        self.norm = ChannelNorm(decoder.norm_out)
        self.conv_out = CausalConv(decoder.conv_out)

    def forward(self, x: Tensor, history: History, strip_history: History, first: bool) -> Tensor:
        """This rank's strip of the frames. Up to the attention among all pixels of a frame, which is a small
        part of the work, each rank decodes them whole.
        """
        x = self.conv_in(self.unquantise(x, history, first), history, first)
        x = strip_history.cut(self.middle(x, history, first))
        for block in self.up:
            x = block(x, strip_history, first)
        out: Tensor = self.conv_out(F.silu(self.norm(x)), strip_history, first)
        return out


def _patched(frames: Tensor, patch: int) -> Tensor:
    """Squares of pixels to channels: ``[t, c, h·p, w·p]`` to ``[t, c·p·p, h, w]``, columns before rows."""
    if patch == 1:
        return frames
    squares = frames.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # [t, c, h, rows, w, columns]
    return _channels_last(squares.permute(0, 1, 5, 3, 2, 4).flatten(1, 3))


def _unpatched(frames: Tensor, patch: int) -> Tensor:
    if patch == 1:
        return frames
    squares = frames.unflatten(1, (-1, patch, patch))  # [t, c, columns, rows, h, w]
    pixels: Tensor = squares.permute(0, 1, 4, 3, 5, 2).flatten(4, 5).flatten(2, 3)
    return pixels


def _channels_last(frames: Tensor) -> Tensor:
    return frames.contiguous(memory_format=torch.channels_last)
