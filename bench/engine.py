"""The engine beside diffusers' own pipeline: the same weights, request, threads and process.

Runs alternate, and each figure is a median, so that a slow moment of the machine hits both alike. No prompt
is answered from the cache. ``--json`` puts one object on the last line; ``ratio`` is diffusers' time over
ours.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import WanPipeline

from models.demo.recipe import make_demo_model
from models.denoiser import Denoiser
from models.engine import GenerationRequest
from models.generate import generate
from models.pipeline import WanEngine
from models.text import TextEncoder
from models.vae import StreamingVae
from models.variants import VARIANTS
from serve_app.media.video_writer import VideoWriter

DEMO_WEIGHTS = Path(__file__).resolve().parent.parent / "models" / "demo" / "weights"


@dataclass(frozen=True, slots=True)
class Stage:
    """Median seconds of one stage."""

    ours_s: float
    diffusers_s: float

    @property
    def ratio(self) -> float:
        return self.diffusers_s / self.ours_s

    def as_json(self) -> dict[str, float]:
        return {
            "ours_s": round(self.ours_s, 5),
            "diffusers_s": round(self.diffusers_s, 5),
            "ratio": round(self.ratio, 3),
        }


class Contest:
    """One request, run both ways."""

    def __init__(self, pipeline: Any, engine: WanEngine, text: TextEncoder, vae: StreamingVae) -> None:
        self._pipeline = pipeline
        self._engine = engine
        self._text = text
        self._vae = vae

    def stages(
        self, request: GenerationRequest, folder: Path, repeats: int
    ) -> tuple[dict[str, Stage], float]:
        """Every stage, and the largest difference between the two's final latents."""
        latents, theirs = self._denoised(request), self._denoised_by_diffusers(request)
        error = float((latents.cpu() - theirs.cpu()).abs().max())
        pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "text_encode": (
                lambda: self._text.encode(request.prompt),
                lambda: self._encode_by_diffusers(request),
            ),
            "step": (lambda: self._denoised(request), lambda: self._denoised_by_diffusers(request)),
            "vae_decode": (
                lambda: list(self._vae.decode(latents)),
                lambda: self._decode_by_diffusers(latents),
            ),
            "end_to_end": (
                lambda: self._video(request, folder / "ours.mp4"),
                lambda: self._video_by_diffusers(request, folder / "diffusers.mp4"),
            ),
        }
        stages = {name: medians(ours, other, repeats) for name, (ours, other) in pairs.items()}
        step = stages["step"]  # measured over the whole loop, prompt encoding included on both sides
        stages["step"] = Stage(step.ours_s / request.steps, step.diffusers_s / request.steps)
        return stages, error

    def _denoised(self, request: GenerationRequest) -> torch.Tensor:
        generation = self._engine.prepare(request)
        while generation.step < generation.total_steps:
            self._engine.denoise_step(generation)
        return generation.latents

    def _denoised_by_diffusers(self, request: GenerationRequest) -> torch.Tensor:
        latents: torch.Tensor = self._run_diffusers(request, "latent")
        return latents

    def _encode_by_diffusers(self, request: GenerationRequest) -> None:
        with torch.inference_mode():
            self._pipeline.encode_prompt(
                request.prompt, do_classifier_free_guidance=False, max_sequence_length=512
            )

    def _decode_by_diffusers(self, latents: torch.Tensor) -> None:
        with torch.inference_mode():
            self._pipeline.vae.decode(latents.to(self._pipeline.vae.dtype))

    def _video(self, request: GenerationRequest, path: Path) -> None:
        with VideoWriter(path, width=request.width, height=request.height, fps=request.fps) as writer:
            for frames in generate(self._engine, request):
                writer.write(frames)

    def _video_by_diffusers(self, request: GenerationRequest, path: Path) -> None:
        frames = self._run_diffusers(request, "np")[0]
        with VideoWriter(path, width=request.width, height=request.height, fps=request.fps) as writer:
            writer.write((frames * 255).round().astype(np.uint8))

    def _run_diffusers(self, request: GenerationRequest, output: str) -> Any:
        return self._pipeline(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            width=request.width,
            height=request.height,
            num_frames=request.num_frames,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            guidance_scale_2=request.guidance_scale_2,
            generator=torch.Generator("cpu").manual_seed(request.seed),
            output_type=output,
        ).frames


def medians(ours: Callable[[], object], diffusers: Callable[[], object], repeats: int) -> Stage:
    """Run both in turn, once unmeasured and then ``repeats`` times."""
    times: tuple[list[float], list[float]] = ([], [])
    for round_number in range(repeats + 1):
        for run, seconds in zip((ours, diffusers), times, strict=True):
            started = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if round_number > 0:
                seconds.append(time.perf_counter() - started)
    return Stage(statistics.median(times[0]), statistics.median(times[1]))


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    variant = VARIANTS[options.variant]
    if variant.name == "demo" and options.weights == DEMO_WEIGHTS:
        make_demo_model(DEMO_WEIGHTS)
    pipeline = WanPipeline.from_pretrained(
        options.weights,
        torch_dtype=torch.bfloat16 if options.device.startswith("cuda") else torch.float32,
        local_files_only=True,
        use_safetensors=True,
    ).to(options.device)
    pipeline.set_progress_bar_config(disable=True)
    # the schedule of the request, for both
    pipeline.scheduler.register_to_config(flow_shift=variant.flow_shift)
    text = TextEncoder(pipeline.tokenizer, pipeline.text_encoder, cache_bytes=0)
    vae = StreamingVae(pipeline.vae)
    low_noise = None if pipeline.transformer_2 is None else Denoiser(pipeline.transformer_2)
    engine = WanEngine(variant, text, Denoiser(pipeline.transformer), vae, low_noise)
    request = GenerationRequest(
        prompt="a red cat runs along the beach at sunset, waves behind it",
        negative_prompt=variant.negative_prompt,
        width=options.width or variant.width,
        height=options.height or variant.height,
        num_frames=options.frames or variant.num_frames,
        fps=variant.fps,
        steps=options.steps or variant.steps,
        guidance_scale=variant.guidance_scale,
        guidance_scale_2=variant.guidance_scale_2,
        flow_shift=variant.flow_shift,
        seed=42,
    )
    with tempfile.TemporaryDirectory() as folder:
        stages, error = Contest(pipeline, engine, text, vae).stages(request, Path(folder), options.repeats)
    _print_table(request, options, stages, error)
    if options.json:
        print(json.dumps({"stages": {n: s.as_json() for n, s in stages.items()}, "max_abs_err": error}))
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    bases = [name for name, variant in VARIANTS.items() if "t2v" in variant.tasks and not variant.distilled]
    parser = argparse.ArgumentParser(prog="bench engine", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--repeats", type=int, default=3, help="measured runs a stage, of which the median counts"
    )
    parser.add_argument("--variant", choices=bases, default="demo")
    parser.add_argument("--weights", type=Path, default=DEMO_WEIGHTS, help="a folder in the diffusers layout")
    for number in ("width", "height", "frames", "steps"):
        parser.add_argument(f"--{number}", type=int, help="instead of the variant's own")
    return parser.parse_args(arguments)


def _print_table(
    request: GenerationRequest, options: argparse.Namespace, stages: dict[str, Stage], error: float
) -> None:
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{options.variant}, {request.width}x{request.height}, {request.num_frames} frames, "
        f"{request.steps} steps, {options.device}, {options.threads} threads, "
        f"torch {torch.__version__}, {platform.machine()}"
    )
    print(f"{'stage':<14}{'ours s':>10}{'diffusers s':>14}{'ratio':>8}")
    for name, stage in stages.items():
        print(f"{name:<14}{stage.ours_s:>10.4f}{stage.diffusers_s:>14.4f}{stage.ratio:>8.2f}")
    print(f"largest difference between the latents: {error:.2g}; peak memory of both: {peak_mib:.0f} MiB")
