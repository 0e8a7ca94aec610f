"""Streaming form of Wan's causal video VAE: frames come out while later ones are still latents.

Built from the weights of diffusers' ``AutoencoderKLWan`` (both the Wan 2.1 VAE and the residual, patchified
Wan 2.2 VAE), with the same results. Frames are a batch of pictures ``[t, channels, height, width]``,
channels-last.
"""

import logging
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn

from models.errors import TuningError
from models.limits import CHUNK_PIXELS, CUDA_CHUNK_PIXELS
from models.parallel.mesh import Mesh
from models.vae.causal_conv import ConvForm
from models.vae.conv_form import conv_form, pixel_operations
from models.vae.decoder import Decoder, Decoding
from models.vae.encoder import Encoder, Encoding
from models.vae.strips import Strips
from models.vae.tiles import Tiles, Tiling

_LOGGER = logging.getLogger(__name__)


class _OverflowError(Exception):
    """A chunk overflowed: an infinite value on its way becomes NaN in the next norm, and stays so."""


class StreamingVae:
    """Encodes videos to the transformer's latents and decodes them, in chunks of frames.

    Latents ``[1, z, f, h, w]`` are normalised per channel: zero mean, unit standard deviation. Peak memory
    depends on the frame size and ``chunk_pixels``, not on the number of frames. With ``tiling``, the device
    holds one tile of the frame at a time, and the host the histories of the other tiles.

    Raises ``TuningError`` for tiling in a group.
    """

    def __init__(
        self,
        vae: Any,
        chunk_pixels: int | None = None,
        mesh: Mesh | None = None,
        tiling: Tiling | None = None,
        conv: ConvForm | None = None,
        sturdy: torch.dtype | None = None,
        large: ConvForm | None = None,
    ) -> None:
        """``chunk_pixels``: video pixels to encode or decode at once, ``conv``: form of the convolutions;
        None for those of the device that ``vae`` is on. ``sturdy``: a dtype that overflows less easily than
        that of ``vae``: it encodes, and decodes a video that overflows. ``large``: form of the convolutions
        of the decoder's two largest resolutions, but for a sturdy one; None for that of the others.
        """
        config = vae.config
        self._mesh = mesh or Mesh()
        if tiling is not None and self._mesh.plan.devices > 1:
            raise TuningError("vae_tiling is for one device; in a group each has a strip of the picture.")
        self.tiling = tiling
        self._device: torch.device = vae.device
        self._dtype: torch.dtype = sturdy or vae.dtype
        self.z_dim: int = config.z_dim
        self.temporal_stride: int = config.scale_factor_temporal
        self.spatial_stride: int = config.scale_factor_spatial
        on_cuda = self._device.type == "cuda"
        self.chunk_pixels = chunk_pixels or (CUDA_CHUNK_PIXELS if on_cuda else CHUNK_PIXELS)
        self.mean = torch.tensor(config.latents_mean, device=self._device).view(1, -1, 1, 1, 1)
        self.deviation = torch.tensor(config.latents_std, device=self._device).view(1, -1, 1, 1, 1)
        self.pixels = pixel_operations(vae)
        """What is done to each pixel where the VAE lies."""
        conv = conv or conv_form(vae, self.pixels)
        self.encoder = Encoder(vae, conv)
        self.decoder = Decoder(vae, conv, large)
        self._sturdy_decoder: Decoder | None = None
        if sturdy is not None:
            self.encoder.to(sturdy)
            self._sturdy_decoder = Decoder(vae, conv).to(sturdy)

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The encoder, the decoder, and that for videos which overflow if there is one."""
        sturdy = () if self._sturdy_decoder is None else (self._sturdy_decoder,)
        return self.encoder, self.decoder, *sturdy

    def encode(self, video: Tensor) -> Tensor:
        """Encode a whole video ``[1, 3, 4k + 1, height, width]``; see ``encode_frames``."""
        return self.encode_frames(video[0].unbind(1))

    @torch.inference_mode()
    def encode_frames(self, frames: Iterable[Tensor], alone: bool = False) -> Tensor:
        """Encode 4k + 1 frames ``[3, height, width]`` in −1 … 1 to float32 latents, the mode of the
        posterior.

        Reads the frames lazily. Where the frames of latent frames repeat, as in a video of which only the
        first frame is given, layers are skipped once their output repeats as well.

        A group encodes together, one strip to each rank, and every rank gets the latents; with ``alone``,
        this rank encodes by itself.
        """
        frames = iter(frames)
        first = next(frames)[None]
        rows, columns = (size // self.spatial_stride for size in first.shape[2:])
        tiles = Tiles(rows, columns, self.spatial_stride, self.tiling)
        strips = Strips(Mesh() if alone else self._mesh, rows)
        encodings = [Encoding(self.encoder, strips, parked=len(tiles) > 1) for _ in range(len(tiles))]
        chunks = _chunks(frames, self.temporal_stride, self._latents_per_chunk(tiles))

        def latents(chunk: Tensor | None) -> Tensor:
            parts = [None] * len(tiles) if chunk is None else tiles.cut(self._on_device(chunk, self._dtype))
            pairs = zip(encodings, parts, strict=True)
            with self._mesh.lockstep() if strips.several else nullcontext():
                return tiles.joined(encode(part) for encode, part in pairs)

        encoded = [latents(chunk) for chunk in chain([first], chunks)]
        mode = torch.cat(encoded)[:, : self.z_dim].transpose(0, 1)[None].float()
        return ((mode - self.mean) / self.deviation).contiguous()

    def decode(self, latents: Tensor, tiling: Tiling | None = None) -> Iterator[Tensor]:
        """Yield the video as chunks of frames ``[n, 3, height, width]`` in −1 … 1, 4·(f − 1) + 1 in all.

        ``tiling``: tiles for this decode, where the VAE has none.

        A group decodes together, one strip to each rank: every rank iterates, and rank 0 alone gets the
        frames. If rank 0 stops before the end, the others stop too.
        """
        if self._sturdy_decoder is None:
            yield from self._decoded(self.decoder, latents, tiling)
            return
        shown = 0
        try:
            with closing(self._decoded(self.decoder, latents, tiling, watched=True)) as chunks:
                for video in chunks:
                    shown += len(video)
                    yield video
            return
        except _OverflowError:
            _LOGGER.warning("The VAE's decode overflows in %s: again in %s", self.decoder.dtype, self._dtype)
        with closing(self._decoded(self._sturdy_decoder, latents, tiling)) as chunks:
            for video in chunks:
                rest, shown = video[shown:], max(shown - len(video), 0)
                if len(rest):
                    yield rest

    def _decoded(
        self, decoder: Decoder, latents: Tensor, tiling: Tiling | None, watched: bool = False
    ) -> Generator[Tensor]:
        """Yield chunks of frames. If ``watched``, raises ``_OverflowError`` on all ranks in place of a chunk
        with a value that is none.
        """
        latents = (latents.float() * self.deviation + self.mean)[0].transpose(0, 1)
        frames = self._on_device(latents, decoder.dtype)
        strips = Strips(self._mesh, frames.shape[2])
        tiles = Tiles(frames.shape[2], frames.shape[3], self.spatial_stride, tiling or self.tiling)
        decodings = [Decoding(decoder, strips, part, parked=len(tiles) > 1) for part in tiles.cut(frames)]
        count = self._latents_per_chunk(tiles)
        for _ in range(0, len(frames), count):
            # not around the yield: inference mode would leak into the consumer's code
            with torch.inference_mode(), self._mesh.lockstep(), _measured_convolutions():
                video = None
                if strips.takes_part:
                    video = strips.joined(tiles.joined(decode(count) for decode in decodings))
            if watched and self._mesh.agree(leave=video is not None and bool(video.isnan().any())):
                raise _OverflowError
            if video is not None:
                try:
                    yield video
                except GeneratorExit:
                    self._mesh.agree(leave=True)
                    raise
            if self._mesh.agree(leave=False):
                return

    def _on_device(self, frames: Tensor, dtype: torch.dtype) -> Tensor:
        frames = frames.to(self._device, dtype, non_blocking=frames.device.type == "cpu")
        return frames.contiguous(memory_format=torch.channels_last)

    def _latents_per_chunk(self, tiles: Tiles) -> int:
        pixels = tiles.largest * self.spatial_stride**2 * self.temporal_stride
        limit = min(self.chunk_pixels, CHUNK_PIXELS) if len(tiles) > 1 else self.chunk_pixels
        return max(limit // pixels, 1)


@contextmanager
def _measured_convolutions() -> Iterator[None]:
    """Let cuDNN measure, once for each shape, which of its kernels is fastest: a decode has few shapes."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _chunks(frames: Iterator[Tensor], size: int, most: int) -> Iterator[Tensor | None]:
    """Yield chunks of frames, ``[n · size, 3, height, width]``, n up to ``most``; None for ``size`` frames
    that equal those before.
    """
    before: list[Tensor] = []
    chunk: list[Tensor] = []
    while following := list(islice(frames, size)):
        same = bool(before) and all(map(torch.equal, following, before))
        if not same:
            chunk += following
        if chunk and (same or len(chunk) == most * size):
            yield torch.stack(chunk)
            chunk = []
        if same:
            yield None
        before = following
    if chunk:
        yield torch.stack(chunk)
