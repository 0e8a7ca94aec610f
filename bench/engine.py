"""The engine beside diffusers' own pipeline: the same weights, request, threads and process.

Runs alternate, and each figure is a median, so that a slow moment of the machine hits both alike. No prompt
is answered from the cache. ``--json`` puts one object on the last line; ``ratio`` is diffusers' time over
ours. A stage's peak is what it holds at its fullest moment beside the weights.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import WanPipeline

from bench.requests import default_request
from models.conditioning.text_encoder import TextEncoder
from models.engine import GenerationRequest
from models.generate import generate
from models.memory.peak import peak_bytes
from models.pipeline.parts import Parts
from models.pipeline.wan_engine import WanEngine
from models.transformer.denoiser import Denoiser
from models.vae.streaming_vae import StreamingVae
from models.variants import VARIANTS
from serve_app.media.video_writer import VideoWriter
from testbed.text_encoders import own_text_encoder

DEMO_WEIGHTS = Path(__file__).resolve().parent.parent / "models" / "demo" / "weights"


@dataclass(frozen=True, slots=True)
class Stage:
    """The median seconds of one stage, and the bytes that it holds at its peak."""

    ours_s: float
    diffusers_s: float
    ours_peak: int
    diffusers_peak: int

    @property
    def ratio(self) -> float:
        """Diffusers' time over ours."""
        return self.diffusers_s / self.ours_s

    def as_json(self) -> dict[str, float]:
        """Return the figures by name: seconds, bytes, the ratio."""
        return {
            "ours_s": round(self.ours_s, 5),
            "diffusers_s": round(self.diffusers_s, 5),
            "ratio": round(self.ratio, 3),
            "ours_peak_bytes": self.ours_peak,
            "diffusers_peak_bytes": self.diffusers_peak,
        }


class Contest:
    """A request, run both ways."""

    def __init__(self, pipeline: Any, engine: WanEngine, text: TextEncoder, vae: StreamingVae) -> None:
        self._pipeline = pipeline
        self._engine = engine
        self._text = text
        self._vae = vae

    def stages(
        self, request: GenerationRequest, folder: Path, repeats: int
    ) -> tuple[dict[str, Stage], float]:
        """Measure every stage, and the largest difference between the final latents of both."""
        latents, theirs = self._denoised(request), self._denoised_by_diffusers(request)
        error = float((latents.cpu() - theirs.cpu()).abs().max())
        video = picture_and_gray(request)
        pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "text_encode": (
                lambda: self._text.encode(request.prompt),
                lambda: self._encode_by_diffusers(request),
            ),
            "image_encode": (
                lambda: self._vae.encode(video),
                lambda: self._encode_image_by_diffusers(video),
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
        device = self._engine.parts.denoiser.device
        stages = {name: measured(ours, other, repeats, device) for name, (ours, other) in pairs.items()}
        step = stages["step"]  # measured over the whole loop, prompt encoding included on both sides
        stages["step"] = replace(
            step, ours_s=step.ours_s / request.steps, diffusers_s=step.diffusers_s / request.steps
        )
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

    def _encode_image_by_diffusers(self, video: torch.Tensor) -> None:
        vae = self._pipeline.vae
        with torch.inference_mode():
            vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode()

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


def picture_and_gray(request: GenerationRequest) -> torch.Tensor:
    """Return a picture and then gray, as image channels encode it: ``[1, 3, frames, height, width]``."""
    video = torch.zeros(1, 3, request.num_frames, request.height, request.width)
    video[:, :, 0] = torch.rand(3, request.height, request.width, generator=torch.Generator().manual_seed(1))
    return video


def measured(
    ours: Callable[[], object], diffusers: Callable[[], object], repeats: int, device: torch.device
) -> Stage:
    """Run both in turn, once for their memory and then ``repeats`` times for their time."""
    ours_peak, diffusers_peak = (peak_bytes(run, device) for run in (ours, diffusers))
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for run, seconds in zip((ours, diffusers), times, strict=True):
            started = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - started)
    ours_s, diffusers_s = map(statistics.median, times)
    return Stage(ours_s, diffusers_s, ours_peak, diffusers_peak)


def main(arguments: list[str]) -> int:
    """Measure our engine beside diffusers and print."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    variant = VARIANTS[options.variant]
    pipeline = WanPipeline.from_pretrained(
        options.weights,
        torch_dtype=torch.bfloat16 if options.device.startswith("cuda") else torch.float32,
        local_files_only=True,
        use_safetensors=True,
    ).to(options.device)
    pipeline.set_progress_bar_config(disable=True)
    # the schedule of the request, for both
    pipeline.scheduler.register_to_config(flow_shift=variant.flow_shift)
    text = TextEncoder(
        pipeline.tokenizer.backend_tokenizer, own_text_encoder(pipeline.text_encoder), cache_bytes=0
    )
    vae = StreamingVae(pipeline.vae)
    low_noise = None if pipeline.transformer_2 is None else Denoiser(pipeline.transformer_2)
    engine = WanEngine(variant, Parts(text, Denoiser(pipeline.transformer), vae, low_noise))
    request = default_request(
        variant,
        width=options.width or variant.width,
        height=options.height or variant.height,
        num_frames=options.frames or variant.num_frames,
        steps=options.steps or variant.steps,
    )
    with tempfile.TemporaryDirectory() as folder:
        stages, error = Contest(pipeline, engine, text, vae).stages(request, Path(folder), options.repeats)
    _print_table(request, options, stages, error)
    slower = [name for name, stage in stages.items() if stage.ratio < (options.require_ratio or 0.0)]
    if slower:
        print(f"Below the required ratio of {options.require_ratio:g}: {', '.join(slower)}.")
    if options.json:
        print(json.dumps({"stages": {n: s.as_json() for n, s in stages.items()}, "max_abs_err": error}))
    return 1 if slower else 0


def _options(arguments: list[str]) -> argparse.Namespace:
    bases = [name for name, variant in VARIANTS.items() if "t2v" in variant.tasks and not variant.distilled]
    parser = argparse.ArgumentParser(prog="scripts/bench engine", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--repeats", type=int, default=3, help="measured runs a stage, of which the median counts"
    )
    parser.add_argument(
        "--require-ratio",
        type=float,
        metavar="X",
        help="fail if diffusers takes less than X of our time anywhere",
    )
    parser.add_argument("--variant", choices=bases, default="demo")
    parser.add_argument("--weights", type=Path, default=DEMO_WEIGHTS, help="a folder in the diffusers layout")
    for number in ("width", "height", "frames", "steps"):
        parser.add_argument(f"--{number}", type=int, help="instead of the variant's own")
    return parser.parse_args(arguments)


def _print_table(
    request: GenerationRequest, options: argparse.Namespace, stages: dict[str, Stage], error: float
) -> None:
    print(
        f"{options.variant}, {request.width}x{request.height}, {request.num_frames} frames, "
        f"{request.steps} steps, {options.device}, {options.threads} threads, "
        f"torch {torch.__version__}, {platform.machine()}"
    )
    print(f"{'stage':<14}{'ours s':>10}{'diffusers s':>14}{'ratio':>8}{'ours MB':>10}{'diffusers MB':>14}")
    for name, stage in stages.items():
        times = f"{stage.ours_s:>10.4f}{stage.diffusers_s:>14.4f}{stage.ratio:>8.2f}"
        print(f"{name:<14}{times}{stage.ours_peak / 1e6:>10.1f}{stage.diffusers_peak / 1e6:>14.1f}")
    print(f"largest difference between the latents: {error:.2g}")
