"""The work of a case as the engine does it and as diffusers does, on the same random weights."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline

from bench import flops
from bench.cases import Case
from bench.laps import Laps
from bench.requests import PROMPT, default_request
from models.engine import GenerationRequest
from models.generate import generate
from models.phase import Phase
from models.pipeline.wan_engine import WanEngine
from models.pixel_format import PixelFormat, video_format
from serve_app.media.video_encoding import VideoEncoding
from serve_app.media.video_writer import VideoWriter
from testbed.random_engine import RandomModel

_STEPS = 4


@dataclass(frozen=True, slots=True)
class Work:
    """The work to measure: callables that return when the device has done it."""

    ours: Callable[[], object]
    diffusers: Callable[[], object]
    laps: Laps = field(default_factory=Laps)
    """Of a run to its file, the seconds of each phase of the last one by us."""


def operations(case: Case) -> int:
    """Count the floating point operations of a case's work."""
    size = case.width, case.height, case.num_frames
    if case.kind == "decode":
        return flops.decode(case.variant, *size)
    forward = flops.forward(case.variant, *size).total
    return 2 * forward if case.kind == "step" else _STEPS * forward + flops.decode(case.variant, *size)


def work(case: Case, model: RandomModel, folder: Path) -> Work:
    """Prepare a case's work. Raises ``TuningError`` or ``OutOfMemory`` where the engine cannot do it here."""
    if case.kind == "decode":
        return _decode(case, model)
    engine = model.engine(case.tuning)
    if case.kind == "step":
        return _steps(case, model, engine)
    return _end_to_end(case, model, engine, folder)


def request_of(case: Case) -> GenerationRequest:
    """Return the request of a case: the defaults of its variant, at its size."""
    request = default_request(
        case.variant,
        width=case.width,
        height=case.height,
        num_frames=case.num_frames,
        steps=1000 if case.kind == "step" else _STEPS,  # more than are ever taken of one run
    )
    return replace(request, guidance_scale_2=None)  # the random model has one expert


def _steps(case: Case, model: RandomModel, engine: WanEngine) -> Work:
    run = engine.prepare(request_of(case))
    latents = run.latents.to(model.dtype)
    prompts = [_filled(model) for _ in range(2)]
    timestep = torch.full((1,), 500.0, device=model.device)

    @torch.inference_mode()
    def diffusers() -> None:
        for prompt in prompts:
            model.transformer(latents, timestep, prompt, return_dict=False)

    return Work(lambda: engine.denoise_step(run), diffusers)


def _decode(case: Case, model: RandomModel) -> Work:
    variant = case.variant
    stride = variant.spatial_stride
    latents = torch.randn(
        1,
        variant.latent_channels,
        variant.latent_frames(case.num_frames),
        case.height // stride,
        case.width // stride,
        device=model.device,
    )

    @torch.inference_mode()
    def diffusers() -> None:
        model.vae.decode(latents.to(model.dtype))

    vae = model.vae_of(case.tuning)
    return Work(lambda: [None for _ in vae.decode(latents)], diffusers)


def _end_to_end(case: Case, model: RandomModel, engine: WanEngine, folder: Path) -> Work:
    request = request_of(case)
    pixels = video_format(str(model.device))

    laps = Laps()

    def ours() -> None:
        laps.begin()
        with _writer(folder / "ours.mp4", request, pixels) as writer:
            for frames in generate(engine, request, on_phase=laps.entered, pixel_format=pixels):
                writer.write(frames)
            laps.entered(Phase.WRITING)
        laps.entered(None)

    def diffusers() -> None:
        frames = _pipeline(model)(
            prompt_embeds=_filled(model),
            width=request.width,
            height=request.height,
            num_frames=request.num_frames,
            num_inference_steps=request.steps,
            guidance_scale=1.0,
            output_type="np",
        ).frames[0]
        with _writer(folder / "diffusers.mp4", request) as writer:
            writer.write((frames * 255).round().astype(np.uint8))

    return Work(ours, diffusers, laps)


def _pipeline(model: RandomModel) -> Any:
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
    )
    pipeline = WanPipeline(
        tokenizer=None, text_encoder=None, vae=model.vae, scheduler=scheduler, transformer=model.transformer
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _filled(model: RandomModel) -> torch.Tensor:
    """Return a prompt's embeddings, padded as diffusers does before the transformer."""
    with torch.inference_mode():
        own = model.text.encode(PROMPT)
    filled = own.new_zeros(1, 512, own.shape[1])
    filled[0, : len(own)] = own
    return filled


def _writer(
    path: Path, request: GenerationRequest, pixel_format: PixelFormat = PixelFormat.RGB24
) -> VideoWriter:
    return VideoWriter(
        path,
        width=request.width,
        height=request.height,
        fps=request.fps,
        encoding=VideoEncoding(pixel_format),
    )
