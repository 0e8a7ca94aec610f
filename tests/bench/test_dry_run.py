"""Every model at its published size on a fake CUDA device: devices, waits, operations, bytes and memory.

A model has two of its layers, since all are alike. What is counted does not depend on the machine.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import bytes as moved_bytes
from bench import flops
from models.engine import GenerationRequest
from models.errors import ModelError
from models.limits import BATCHED_TOKENS
from models.memory.estimate import KernelScratch, request_memory
from models.pipeline.wan_engine import WanEngine
from models.pixel_format import PixelFormat
from models.transformer.denoiser import Denoiser
from models.tuning import Tuning
from models.vae.streaming_vae import StreamingVae
from models.variants import VARIANTS, Variant
from testbed.fake_device.device import FakeDevice
from testbed.fake_device.dry_run import DryRun, Stage, dry_engine, dry_model, few_layers, sized_request
from testbed.fake_device.traffic import Traffic
from testbed.random_engine import RandomModel

pytestmark = pytest.mark.slow

PERFORMANCE = Path(__file__).parents[2] / "docs" / "performance.md"
COPY, SYNCHRONIZE = "a copy between host and device", "torch.cuda.synchronize"
ARRIVED = "torch.cuda.Event.synchronize"
ITEMSIZE = 2
CHUNKS = 4
"""Chunks of a decode or an encode after which all are alike."""

DEVICE = FakeDevice()

# A distilled model of pictures alone encodes as its base does and steps as the distilled ones of text do.
NAMES = [name for name, variant in VARIANTS.items() if not variant.distilled or "t2v" in variant.tasks]


@cache
def model_of(shapes: Variant) -> RandomModel:
    """Return the model of a variant: variants of one architecture share it. Of CLIP, too, two layers run."""
    model = dry_model(DEVICE, shapes)
    if model.image_encoder is not None:
        del model.image_encoder.encoder.encoder.layers[3:]  # the last one is never run
    return model


def architecture(variant: Variant) -> Variant:
    """Return the variant with all that makes no difference to its weights left as in every other."""
    return replace(
        variant,
        # a model of image tokens has position embeddings where it takes two pictures
        tasks=variant.tasks if variant.image_tokens else frozenset({"t2v"}),
        name="",
        width=0,
        height=0,
        num_frames=0,
        fps=0,
        steps=0,
        flow_shift=0.0,
        guidance_scale=0.0,
        guidance_scale_2=None,
        max_area=0,
        max_frames=0,
        boundary=None,
        distilled=False,
        max_references=0,
        example_prompts=(),
    )


class Encodes(StreamingVae):
    """A VAE that encodes the first chunks of a video and its last: those between are as the ones before."""

    def encode_frames(self, frames: Iterable[Tensor], alone: bool = False) -> Tensor:
        every, stride = iter(frames), self.temporal_stride
        first = list(islice(every, 1 + CHUNKS * stride))
        last: deque[Tensor] = deque(maxlen=stride)
        following = 0
        for frame in every:
            last.append(frame)
            following += 1
        latents = super().encode_frames([*first, *last], alone)
        if following <= stride:
            return latents
        between = latents[:, :, -2:-1].expand(-1, -1, following // stride - 1, -1, -1)
        return torch.cat([latents[:, :, :-1], between, latents[:, :, -1:]], dim=2)


@cache
def encodes_of(model: RandomModel) -> Encodes:
    return Encodes(model.vae)


@dataclass(frozen=True)
class Measured:
    """A run of a variant, stage by stage."""

    variant: Variant
    request: GenerationRequest
    scratch: KernelScratch
    prepare: Stage
    steps: list[Stage]
    decode: Stage
    """The first chunks, by a model of this VAE at this size."""

    @property
    def peak_bytes(self) -> int:
        """The most that is alive at once, beside the weights."""
        decoding = self.steps[-1].live_bytes + self.decode.peak_bytes - self.decode.live_bytes
        return max(decoding, *(stage.peak_bytes for stage in (self.prepare, *self.steps)))


DECODES: dict[tuple[int, int, int, bool], Stage] = {}


def measured(name: str, *, fp8: bool = False) -> Measured:
    return _measured(name, fp8)  # a cache tells an argument that is given from the same one by default


@cache
def _measured(name: str, fp8: bool) -> Measured:
    variant = few_layers(VARIANTS[name])
    with DEVICE:
        model = dry_model(DEVICE, variant) if fp8 else model_of(architecture(variant))
        tuning = Tuning(attention="sdpa", fp8=fp8, vae_fp8=fp8)
        engine = dry_engine(model, variant, tuning)
        if not fp8:
            engine = WanEngine(variant, replace(engine.parts, vae=encodes_of(model)))
        run = DryRun(DEVICE, model, engine)
        request = sized_request(variant, steps=3 if variant.boundary else 2)
        prepare = run.prepare(request)
        steps = [run.step() for _ in range(request.steps)]
        shape = variant.vae_dim, variant.width, variant.height, fp8
        if shape not in DECODES:
            DECODES[shape] = run.decode(CHUNKS)
    return Measured(variant, request, model.scratch, prepare, steps, DECODES[shape])


@pytest.mark.parametrize("name", NAMES)
def test_a_run_waits_once_a_step_and_once_a_chunk(name: str) -> None:
    run = measured(name)
    assert [step.traffic.waits for step in run.steps] == [[SYNCHRONIZE]] * len(run.steps)
    assert set(run.decode.traffic.waits) == {ARRIVED}
    assert len(run.decode.traffic.waits) <= CHUNKS


@pytest.mark.parametrize("name", NAMES)
def test_no_convolution_of_a_decode_has_more_values_than_cudnn_is_fast_for(name: str) -> None:
    convolutions = measured(name).decode.traffic.of("convolution")
    assert convolutions
    most = max(max(moved.read_bytes, moved.written_bytes) for moved in convolutions)
    assert most < 2**31 * ITEMSIZE


def test_frames_for_a_file_are_converted_on_the_device_without_a_wait() -> None:
    variant = few_layers(VARIANTS["demo"])
    with DEVICE:
        model = model_of(architecture(variant))
        run = DryRun(DEVICE, model, dry_engine(model, variant))
        run.prepare(sized_request(variant, steps=1))
        run.step()
        rgb, yuv = (run.decode(pixel_format=form).traffic for form in PixelFormat)
    assert yuv.waits == rgb.waits
    assert set(yuv.waits) == {ARRIVED}


@pytest.mark.parametrize("name", NAMES)
def test_a_step_has_the_operations_that_are_counted(name: str) -> None:
    run = measured(name)
    variant = run.variant
    size = variant.width, variant.height, variant.num_frames
    prompts = 1 if variant.distilled else 2
    # the prompts of a small video are one batch, and share the first block's self-attention
    tolerance = 0.01 if variant.tokens(*size) > BATCHED_TOKENS else 0.1
    for step in run.steps:
        expected = prompts * flops.forward(variant, *size).total
        assert step.traffic.flops == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize(("name", "fp8"), [*((name, False) for name in NAMES), ("wan2.1-t2v-14b", True)])
def test_the_estimate_is_near_the_largest_live_set(name: str, fp8: bool) -> None:
    run = measured(name, fp8=fp8)
    estimate = request_memory(run.variant, run.request, ITEMSIZE, scratch=run.scratch).peak
    # of the demo model's few megabytes, small tensors that are not counted are a part
    assert estimate == pytest.approx(run.peak_bytes, rel=0.1, abs=5e6)


def test_a_decode_in_8_bits_takes_the_memory_of_the_estimate() -> None:
    exact, run = measured("wan2.1-t2v-14b"), measured("wan2.1-t2v-14b", fp8=True)
    decode = run.decode.peak_bytes - run.decode.live_bytes
    estimate = request_memory(run.variant, run.request, ITEMSIZE, scratch=run.scratch).decode
    assert estimate == pytest.approx(decode, rel=0.1)
    assert decode < exact.decode.peak_bytes - exact.decode.live_bytes


def test_an_encode_of_a_video_waits_for_nothing_and_takes_the_memory_of_the_estimate() -> None:
    variant = few_layers(VARIANTS["wan2.1-vace-14b"])
    with DEVICE:
        model = model_of(architecture(variant))
        run = DryRun(DEVICE, model, dry_engine(model, variant))
        picture, encode = run.encode(moving=False), run.encode(moving=True)
    assert picture.traffic.waits == encode.traffic.waits == []
    frames = np.broadcast_to(np.uint8(0), (variant.num_frames, variant.height, variant.width, 3))
    request = replace(sized_request(variant), video=frames)
    estimate = request_memory(variant, request, ITEMSIZE, scratch=model.scratch).encode
    assert estimate == pytest.approx(encode.peak_bytes, rel=0.1)


def test_a_shortcut_of_the_residual_vae_is_read_where_its_values_are() -> None:
    decode = measured("wan2.2-ti2v-5b").decode.traffic
    copies = [moved for moved in decode.launches if moved.name in ("aten.clone", "aten.copy_")]
    assert [moved for moved in copies if moved.written_bytes > moved.read_bytes] == []


def test_means_of_the_residual_vae_are_made_where_its_values_are() -> None:
    variant = few_layers(VARIANTS["wan2.2-ti2v-5b"])
    with DEVICE:
        model = model_of(architecture(variant))
        encode = DryRun(DEVICE, model, dry_engine(model, variant)).encode(moving=False).traffic
    names = {moved.name for moved in encode.launches}
    assert "wan_serve.fill_volume" in names
    assert names.isdisjoint({"aten.mean", "aten.constant_pad_nd"})


def test_prompts_are_encoded_on_the_device() -> None:
    variant = replace(few_layers(VARIANTS["demo"]), text_dim=4096)
    with DEVICE:
        text = RandomModel(variant, DEVICE.device, torch.bfloat16, text_encoder=True).text
        traffic = Traffic()
        with DEVICE.observed_by(traffic):
            embeddings = text.encode("a red cat")
    assert embeddings.is_cuda
    assert embeddings.shape[1] == 4096
    assert traffic.waits == [COPY]


def damaged(engine: WanEngine, damage: Callable[[Tensor], Tensor]) -> WanEngine:
    """Return the engine with ``damage`` done to what each block returns."""
    denoiser = engine.parts.denoiser
    whole = denoiser.block_parts.after_attention

    def after_attention(*args: object) -> Tensor:
        return damage(whole(*args))

    parts = replace(denoiser.block_parts, after_attention=after_attention)
    faulty = Denoiser(denoiser.transformer, attention=denoiser.attention, block_parts=parts)
    return WanEngine(engine.variant, replace(engine.parts, denoiser=faulty))


def damaged_run(damage: Callable[[Tensor], Tensor]) -> DryRun:
    variant = few_layers(VARIANTS["wan2.1-t2v-1.3b"])
    model = model_of(architecture(variant))
    run = DryRun(DEVICE, model, damaged(dry_engine(model, variant), damage))
    run.prepare(sized_request(variant))
    return run


def test_a_block_that_leaves_the_device_is_found() -> None:
    with DEVICE, pytest.raises(ModelError, match="denoising"):
        damaged_run(lambda x: x.to("cpu")).step()


def test_a_block_that_visits_the_host_is_found() -> None:
    with DEVICE:
        step = damaged_run(lambda x: x.to("cpu").to(DEVICE.device)).step()
    # two layers, two prompts, there and back
    assert step.traffic.waits == [COPY] * 8 + [SYNCHRONIZE]


@cache
def counts() -> moved_bytes.Counts:
    return moved_bytes.count()


def documented() -> dict[str, tuple[float, float | None]]:
    """Return the figures of the docs, by name: what is counted and what is wanted."""
    _, _, table = PERFORMANCE.read_text().partition("| counted | now | wanted | unit |")
    rows = (line.strip("| ").split(" | ") for line in table.splitlines()[2:14])
    return {name: (float(now), float(wanted) if wanted.strip() else None) for name, now, wanted, _ in rows}


def test_no_more_is_moved_than_the_docs_state() -> None:
    stated = documented()
    figures = counts().figures
    assert stated.keys() == {figure.name for figure in figures}
    for figure in figures:
        now, wanted = stated[figure.name]
        assert figure.value <= 1.01 * now, f"{figure.name}: {figure.value:.2f} {figure.unit}"
        assert figure.wanted == wanted
