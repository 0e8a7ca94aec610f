"""The engine protocol: a replica's interface to a video model, one denoise step at a time.

Imports neither torch nor diffusers, so that code that only describes work (the HTTP layer, a fake engine) can
use it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.phase import OnPhase, untold
from models.pixel_format import PixelFormat
from models.variants import Variant
from models.video_spec import VideoSpec
from models.weights_source import WeightsSource

Frames: TypeAlias = NDArray[np.uint8]
"""Frames ``[n, …]`` of their pixel format's shape, C-contiguous; RGB, ``[n, height, width, 3]``, unless
another one is named.
"""

Picture: TypeAlias = NDArray[np.uint8]
"""One RGB picture, shape ``[height, width, 3]``."""


Mask: TypeAlias = NDArray[np.uint8]
"""A mask of a video's pixels, uint8 ``[n, height, width]``: 0 keeps a pixel, 255 changes it."""


Expert: TypeAlias = Literal["both", "high_noise", "low_noise"]
"""One or both transformers of a model with two experts. A model with one transformer takes only ``both``."""


@dataclass(frozen=True, slots=True)
class GenerationRequest(VideoSpec):
    """A video to make, with its pictures, video and mask."""

    image: Picture | None = None
    """First frame, already of this request's size; makes the run image-to-video."""
    last_image: Picture | None = None
    """Last frame, of this request's size too; only together with a first frame."""
    references: tuple[Picture, ...] = ()
    """Pictures of subjects that appear in the video, of any size; they are no frames of it."""
    video: Frames | None = None
    """A video to change, of this request's frames and size; only for a model with control blocks."""
    mask: Mask | None = None
    """Mask of the pixels of ``video`` to change; None changes all of them, guided by the video's content."""
    control_scale: float = 1.0
    """Factor on the output of the control blocks, which take ``video``, pictures and references."""
    fragment_prompts: tuple[str, ...] = ()
    """A prompt for each fragment, in place of ``prompt``; empty: that one for all."""

    tail: Frames | None = None
    """Last frames of a video that this one goes on from, ``Variant.overlap`` of them, of this request's size;
    they are not shown again.
    """
    fragments_before: int = 0
    """Fragments of that video, from which the seeds of this one's count on."""

    @property
    def has_begin(self) -> bool:
        """True if the first frames are given."""
        return self.image is not None or self.tail is not None

    def prompt_of(self, fragment: int) -> str:
        """Return the prompt of the fragment with that index."""
        return self.fragment_prompts[fragment] if self.fragment_prompts else self.prompt


@dataclass(frozen=True, slots=True)
class FusedLora:
    """A LoRA file that is fused into the weights once, during loading."""

    file: Path
    strength: float = 1.0
    expert: Expert = "both"


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Settings of an engine.

    ``device`` is ``cpu`` or ``cuda`` (or ``cuda:1``); ``dtype`` is ``auto`` (bfloat16 on cuda, float32 on
    cpu), ``float32``, ``bfloat16`` or ``float16``; ``threads`` is the number of CPU threads, divided among
    the ranks of a group (None: torch's own choice, in a launched group an equal part of the cores);
    ``options`` are specific to the engine (``models.tuning.Tuning`` for the Wan engine).
    """

    variant: Variant
    weights: WeightsSource
    device: str = "cpu"
    dtype: str = "auto"
    threads: int | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    lora_folder: Path | None = None
    """Folder of the LoRAs that requests may name; see ``models.lora.folder``. None: there are none."""
    lora_cache_bytes: int = 4 * 2**30
    """Limit on the LoRAs kept on the device between requests, and on those of one request together."""
    fused_loras: tuple[FusedLora, ...] = ()
    """LoRAs that are part of the model from the start, such as those of a distilled model."""
    offline: bool = False
    """True to use hub models from the cache only."""
    transformer: Path | None = None
    """Safetensors that replace the transformer's weights: a file, an index, or a folder of either, with
    tensor names of diffusers or of Wan.
    """
    transformer_2: Path | None = None
    """Safetensors that replace the weights of the low-noise expert."""

    @property
    def replaced(self) -> Mapping[str, Path]:
        """Parts of ``weights`` whose tensors come from other files, with the paths of those files."""
        given = {"transformer": self.transformer, "transformer_2": self.transformer_2}
        return {part: path for part, path in given.items() if path is not None}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a run between two steps, on the host.

    A run of the same request, in an engine with the same weights, settings and parallel plan, goes on from it
    to the same video.
    """

    fragment: int
    """Index of the request's fragment that the run makes."""
    step: int
    """Denoise steps done."""
    arrays: Mapping[str, NDArray[Any]]
    """What the engine needs to go on, of types that numpy has."""


PendingSnapshot: TypeAlias = Callable[[], Snapshot]
"""A snapshot on its way to the host; called, from any thread, it waits for the copy and returns it."""


class Generation(Protocol):
    """The state of one run: created by ``prepare``, advanced by ``denoise_step``, consumed by ``decode``."""

    @property
    def request(self) -> GenerationRequest:
        """Request of the run."""

    @property
    def fragment(self) -> int:
        """Index of the request's fragment that this run makes, from 0."""

    @property
    def step(self) -> int:
        """Denoise steps done so far, 0 … ``total_steps``."""

    @property
    def total_steps(self) -> int:
        """Number of steps before the run can be decoded."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the client about what ``prepare`` left out of the request or changed in it."""


class Engine(Protocol):
    """A loaded model. Not thread-safe: one call at a time. Runs share no state that shows in their videos.

    Any call raises ``models.errors.EngineLost`` if this engine can do no further run.

    A run may be abandoned at any point by dropping its ``Generation``.
    """

    @property
    def evictions(self) -> Mapping[str, int]:
        """How many entries each of its caches has dropped for want of room so far, by the cache's name."""

    def prepare(
        self, request: GenerationRequest, after: Generation | None = None, on_phase: OnPhase = untold
    ) -> Generation:
        """Encode the prompt and pictures and draw the noise. Raises ``models.errors.InvalidRequest``.

        ``after``: the run of the fragment before, of the same request and decoded; None for the first
        fragment. ``on_phase`` is told of the phases of this call, as far as the engine knows them.
        """

    def denoise_step(self, generation: Generation) -> None:
        """Do exactly one denoise step. Raises ``models.errors.ModelError``, also if no step is left."""

    def cut_short(self, generation: Generation) -> None:
        """End the denoising here: ``total_steps`` becomes ``step``, and the video that the latest step
        predicts is what is decoded. Raises ``models.errors.ModelError`` before the first step.
        """

    def snapshot(self, generation: Generation) -> PendingSnapshot | None:
        """Begin to copy the run's state to the host; the run may go on meanwhile.

        Returns None for a run whose state is more than a snapshot holds. Raises
        ``models.errors.ModelError``.
        """

    def restore(self, generation: Generation, snapshot: Snapshot) -> None:
        """Put a run that was just prepared where the snapshot of the same fragment is.

        Raises ``models.errors.ModelError``, also for a snapshot that does not fit the run.
        """

    def decode(
        self, generation: Generation, pixel_format: PixelFormat = PixelFormat.RGB24
    ) -> Iterator[Frames]:
        """Yield the frames in order as they are decoded: ``num_frames``, without the overlap with the
        fragment before.

        Raises ``models.errors.ModelError`` at the call, before any frame, if steps are left to do.
        """

    def preview(self, generation: Generation) -> Frames:
        """Render a small, rough preview of the run: one picture per latent frame, about ``[latent frames,
        height / 8, width / 8, 3]``. Cheap enough for every step.
        """
