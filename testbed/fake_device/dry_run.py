"""A run at a variant's real size on the fake device: what each stage moves, waits for and keeps alive."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from models.engine import GenerationRequest
from models.pipeline.generation import WanGeneration
from models.pipeline.wan_engine import WanEngine
from models.pixel_format import PixelFormat, video_format
from models.tuning import Tuning
from models.variants import Variant
from testbed.fake_device.device import FakeDevice
from testbed.fake_device.live_set import LiveSet
from testbed.fake_device.traffic import Traffic
from testbed.random_engine import RandomModel

_VIDEO_FORMAT = video_format("cuda")


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a run."""

    traffic: Traffic
    live_bytes: int
    """Bytes that the run kept alive before the stage."""
    peak_bytes: int
    """The most that were alive during the stage, those before included."""


class DryRun:
    """A run on a fake device, stage by stage. Weights are not in the live set, what a run makes is."""

    def __init__(self, device: FakeDevice, model: RandomModel, engine: WanEngine) -> None:
        self._device = device
        self._model = model
        self._engine = engine
        self._live = LiveSet()
        self._run: WanGeneration | None = None

    def prepare(self, request: GenerationRequest) -> Stage:
        """Encode what the request gives, and draw the noise."""
        return self._stage(lambda: self._begin(request))

    def encode(self, moving: bool) -> Stage:
        """Encode a video of the variant's own size and frames: one whose frames all differ or, unless
        ``moving``, a picture and gray, as image-to-video models do.
        """
        frames = _frames(self._engine.variant, moving)
        return self._stage(lambda: self._model.streaming_vae.encode_frames(frames))

    def step(self) -> Stage:
        """Take the next step."""
        run = self._prepared
        return self._stage(lambda: self._engine.denoise_step(run))

    def decode(self, chunks: int | None = None, pixel_format: PixelFormat = _VIDEO_FORMAT) -> Stage:
        """Decode so many chunks, or all of them; no frame is kept. All steps must be done."""
        run = self._prepared
        return self._stage(lambda: [None for _ in islice(self._engine.decode(run, pixel_format), chunks)])

    @property
    def _prepared(self) -> WanGeneration:
        assert self._run is not None, "prepare comes first"
        return self._run

    def _begin(self, request: GenerationRequest) -> None:
        self._run = self._engine.prepare(request)

    def _stage(self, work: Callable[[], object]) -> Stage:
        traffic, before = Traffic(self._model.transformer), self._live.bytes
        self._live.forget_peak()
        with self._device.observed_by(self._live, traffic):
            work()
        return Stage(traffic, before, self._live.peak)


def _frames(variant: Variant, moving: bool) -> Iterator[Tensor]:
    for place in range(variant.num_frames):
        level = place if moving else int(place == 0)
        yield torch.tensor(float(level)).expand(3, variant.height, variant.width)


def few_layers(variant: Variant, layers: int = 2) -> Variant:
    """Return a variant of the same widths with so few layers, and one control block if it has any."""
    return replace(variant, layers=layers, control_blocks=min(variant.control_blocks, 1))


def dry_model(device: FakeDevice, variant: Variant) -> RandomModel:
    """Make the model in bfloat16 on the fake device."""
    return RandomModel(variant, device.device, torch.bfloat16)


def dry_engine(model: RandomModel, variant: Variant, tuning: Tuning | None = None) -> WanEngine:
    """Make the engine of a variant on a model of its widths. Two experts are the same weights twice.

    No kernel is measured for self-attention: sdpa's shapes are those of all.
    """
    built = model.engine(tuning or Tuning(attention="sdpa"))
    parts = built.parts
    if variant.boundary is not None:
        parts = replace(parts, low_noise=parts.denoiser)
    return WanEngine(variant, parts)


def sized_request(variant: Variant, steps: int = 2) -> GenerationRequest:
    """Return the request of a variant's own size and frames, with the pictures that it cannot do without."""
    request = GenerationRequest.of(variant, "a red cat runs along the beach", seed=42, steps=steps)
    picture = np.zeros((variant.height, variant.width, 3), np.uint8)
    if "t2v" in variant.tasks:
        return request
    last = None if "i2v" in variant.tasks else picture
    return replace(request, image=picture, last_image=last)
