"""The engine contract: what a replica asks of a video model, one step at a time.

This module imports neither torch nor diffusers, so whoever only describes work (the HTTP
layer, a scheduling fake) can use it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.variants import Variant
from models.video_spec import VideoSpec
from models.weights_source import WeightsSource

Frames: TypeAlias = NDArray[np.uint8]
"""RGB frames, shape ``[n, height, width, 3]``, C-contiguous."""

Picture: TypeAlias = NDArray[np.uint8]
"""One RGB picture, shape ``[height, width, 3]``."""


Mask: TypeAlias = NDArray[np.uint8]
"""Which pixels of a video are to change, shape ``[n, height, width]``: 0 keeps, 255 changes."""


Expert: TypeAlias = Literal["both", "high_noise", "low_noise"]
"""Which transformer of a model with two. A model with one has nothing but ``both``."""


@dataclass(frozen=True, slots=True)
class GenerationRequest(VideoSpec):
    """A video to make, with the pictures that it starts from."""

    image: Picture | None = None
    """First frame, already of this request's size; makes it image-to-video."""
    last_image: Picture | None = None
    """Last frame, of this request's size too; only beside a first one."""
    references: tuple[Picture, ...] = ()
    """Pictures of things that are to appear in the video, of any size; they are no frames of it."""
    video: Frames | None = None
    """A video to change, of this request's frames and size; only for a model with control blocks."""
    mask: Mask | None = None
    """The pixels of ``video`` that are to change; None changes all of it, guided by what it shows."""
    control_scale: float = 1.0
    """The strength with which ``video``, pictures and references steer a model with control blocks."""


@dataclass(frozen=True, slots=True)
class FusedLora:
    """A LoRA file that is added to the weights, once, while they are loaded."""

    file: Path
    strength: float = 1.0
    expert: Expert = "both"


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The settings that an engine is built from.

    ``device`` is ``cpu`` or ``cuda`` (or ``cuda:1``); ``dtype`` is ``auto`` (bfloat16 on cuda, float32 on
    cpu), ``float32``, ``bfloat16`` or ``float16``; ``threads`` are the CPU threads to compute with, which
    the ranks of a group share (None: torch's own choice, in a launched group an equal part of the cores);
    ``options`` are the engine's own (``models.tuning.Tuning`` names those of the Wan engine).
    """

    variant: Variant
    weights: WeightsSource
    device: str = "cpu"
    dtype: str = "auto"
    threads: int | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    lora_folder: Path | None = None
    """The LoRAs that requests may name; ``models.lora.folder`` says how. None: there are none."""
    lora_cache_bytes: int = 4 * 2**30
    """Bounds the LoRAs kept on the device between requests, and those of one request together."""
    fused_loras: tuple[FusedLora, ...] = ()
    """LoRAs that are part of the model from the start, such as those that make it a distilled one."""
    offline: bool = False
    """Ask no hub: a hub's model must be in the cache."""
    transformer: Path | None = None
    """Safetensors in place of the weights of the transformer: a file, an index, or a folder of either, with
    the names that diffusers or Wan itself gives the tensors."""
    transformer_2: Path | None = None
    """Safetensors in place of the low-noise expert of a model with two."""

    @property
    def replaced(self) -> Mapping[str, Path]:
        """The parts of ``weights`` whose tensors come from elsewhere, and where they come from."""
        given = {"transformer": self.transformer, "transformer_2": self.transformer_2}
        return {part: path for part, path in given.items() if path is not None}


class Generation(Protocol):
    """The state of one run. Made by ``prepare``, moved by ``denoise_step``, spent by ``decode``."""

    @property
    def request(self) -> GenerationRequest:
        """What the run makes."""

    @property
    def fragment(self) -> int:
        """Which fragment of the request this run makes, from 0."""

    @property
    def step(self) -> int:
        """Denoise steps done so far, 0 … ``total_steps``."""

    @property
    def total_steps(self) -> int:
        """Steps until it can be decoded."""


class Engine(Protocol):
    """A loaded model. Not thread-safe: one run at a time, each run shares nothing with the next.

    A run may be abandoned at any point, simply by dropping its ``Generation``.
    """

    def prepare(self, request: GenerationRequest, after: Generation | None = None) -> Generation:
        """Encode the prompt and image and draw the noise. Raises ``models.errors.InvalidRequest``.

        ``after``: the decoded run of the fragment before this one, of the same request.
        """

    def denoise_step(self, generation: Generation) -> None:
        """Do exactly one denoise step. Raises ``models.errors.ModelError``, also when none is left to do."""

    def decode(self, generation: Generation) -> Iterator[Frames]:
        """Yield the frames in order while decoding goes on: ``num_frames``, less what a fragment before it
        has shown.

        Raises ``models.errors.ModelError`` at the call, before any frame, when steps are still to do.
        """

    def preview(self, generation: Generation) -> Frames:
        """A small and rough preview of the run: a picture for each few frames, about
        ``[latent frames, height / 8, width / 8, 3]``. Cheap enough for every step."""
