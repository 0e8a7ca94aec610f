"""The Wan engine: prepare a run, denoise it step by step, decode its frames."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, isfinite

import numpy as np
import torch
from torch import Tensor

from models.attention import TextKeys, stacked
from models.denoiser import Denoiser
from models.engine import Frames, Generation, GenerationRequest
from models.errors import InvalidRequest, ModelError
from models.failures import as_model_errors
from models.image import first_latent_frame
from models.sampling import Euler, Solver, UniPC, distilled_schedule, unipc_schedule
from models.text import Text
from models.vae import StreamingVae
from models.variants import Variant

MAX_STEPS = 1000

BATCHED_TOKENS = 4096
"""Up to this sequence length both guidance forwards are one batch; beyond it one keeps the device busy."""


@dataclass(slots=True)
class WanGeneration:
    """One run. ``latents``: float32 ``[1, channels, frames, height, width]``, as of ``step``."""

    request: GenerationRequest
    solver: Solver
    latents: Tensor
    first_frame: Tensor | None
    """The clean first latent frame of an image-to-video run."""
    prompts: tuple[TextKeys, ...]
    """The prompt and, with guidance, the negative prompt: apart, or stacked as one batch."""
    rotation: Tensor
    step: int = 0

    @property
    def total_steps(self) -> int:
        return len(self.solver.schedule.timesteps)


class WanEngine:
    """Implements ``models.engine.Engine``, on one device or as one rank of a group.

    In a group every rank makes the same calls in the same order and asks ``agree`` before each step, so that
    all leave a run together. All of them iterate over ``decode``; rank 0 alone gets the frames. An error in a
    step or in a decode, on whichever rank, is the end of the group; ``GroupLost`` says so.
    """

    def __init__(self, variant: Variant, text: Text, denoiser: Denoiser, vae: StreamingVae) -> None:
        self._variant = variant
        self._text = text
        self._denoiser = denoiser
        self._vae = vae
        self._mesh = denoiser.mesh

    @torch.inference_mode()
    def prepare(self, request: GenerationRequest) -> WanGeneration:
        check_request(self._variant, request)
        embeddings = self._embeddings(request)
        with self._mesh.together(), as_model_errors("preparing"):
            first_frame = None
            if request.image is not None:
                first_frame = first_latent_frame(self._vae, request.image)
            latents = _held(self._noise(request), first_frame)
            return WanGeneration(
                request=request,
                solver=self._solver(request),
                latents=latents,
                first_frame=first_frame,
                prompts=self._prompts(request, embeddings),
                rotation=self._denoiser.rotation(latents),
            )

    def agree(self, leave: bool) -> bool:
        """Whether any rank wants to leave the run, the same answer on all; alone, whether this one does.

        Asked by all ranks at each step's boundary: a rank that left by itself would hang the others.
        """
        return self._mesh.agree(leave)

    @torch.inference_mode()
    def denoise_step(self, generation: Generation) -> None:
        run = _own(generation)
        if run.step == run.total_steps:
            raise ModelError(f"All {run.total_steps} steps of this run are done.")
        with as_model_errors("denoising"), self._mesh.lockstep():
            velocity = self._velocity(run)
            latents = run.solver.step(run.step, velocity, run.latents)
            run.latents = _held(latents, run.first_frame)
            if latents.is_cuda:
                torch.cuda.synchronize(latents.device)  # a step that is reported must have been done
        run.step += 1

    def decode(self, generation: Generation) -> Iterator[Frames]:
        run = _own(generation)
        if run.step < run.total_steps:
            raise ModelError(f"Only {run.step} of {run.total_steps} steps of this run are done.")
        return self._frames(run.latents)

    def _frames(self, latents: Tensor) -> Iterator[Frames]:
        with as_model_errors("decoding"):
            for chunk in self._vae.decode(latents):
                levels = (chunk.float() * 0.5 + 0.5).mul(255.0).round().to(torch.uint8)
                yield levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def _noise(self, request: GenerationRequest) -> Tensor:
        """Drawn on the CPU, so that a seed means the same video on any device."""
        variant = self._variant
        shape = (
            1,
            variant.latent_channels,
            variant.latent_frames(request.num_frames),
            request.height // variant.spatial_stride,
            request.width // variant.spatial_stride,
        )
        generator = torch.Generator("cpu").manual_seed(request.seed)
        return torch.randn(shape, generator=generator, dtype=torch.float32).to(self._denoiser.device)

    def _solver(self, request: GenerationRequest) -> Solver:
        if self._variant.distilled:
            return Euler(distilled_schedule(request.steps, request.flow_shift))
        return UniPC(unipc_schedule(request.steps, request.flow_shift))

    def _guided(self, request: GenerationRequest) -> bool:
        return request.guidance_scale > 1 and not self._variant.distilled

    def _embeddings(self, request: GenerationRequest) -> list[Tensor]:
        """Of the prompt and, with guidance, of the negative prompt."""
        prompts = [request.prompt, request.negative_prompt] if self._guided(request) else [request.prompt]
        with as_model_errors("encoding the prompt"):
            return [self._text.encode(prompt) for prompt in prompts]

    def _prompts(self, request: GenerationRequest, embeddings: list[Tensor]) -> tuple[TextKeys, ...]:
        """What this rank attends to: every prompt, or the one of its half of the group."""
        keys = [self._denoiser.text(prompt) for prompt in self._mesh.share(embeddings, "cfg")]
        if self._variant.tokens(request.width, request.height, request.num_frames) <= BATCHED_TOKENS:
            return (stacked(keys),)
        return tuple(keys)

    def _velocity(self, run: WanGeneration) -> Tensor:
        timesteps = torch.full((1,), run.solver.schedule.timesteps[run.step], device=run.latents.device)
        if run.first_frame is not None:
            timesteps = timesteps.repeat(run.latents.shape[2])
            timesteps[0] = 0.0  # the picture is there already: no noise to tell the model of
        batches = [self._denoiser(run.latents, timesteps, prompt, run.rotation) for prompt in run.prompts]
        velocities = torch.cat(batches).float()
        if not self._guided(run.request):
            return velocities
        conditional, unconditional = self._mesh.gathered(velocities, "cfg").flatten(0, 1).chunk(2)
        return unconditional + run.request.guidance_scale * (conditional - unconditional)


def check_request(variant: Variant, request: GenerationRequest) -> None:
    """Raise ``InvalidRequest`` for what this engine cannot run. Limits are for ``variants.fit``."""
    for name, size in (("width", request.width), ("height", request.height)):
        if size < 1 or size % variant.size_multiple:
            raise InvalidRequest(
                f"{name} must be a multiple of {variant.size_multiple}, not {size}.", field=name
            )
    if request.num_frames < 1 or request.num_frames % variant.temporal_stride != 1:
        raise InvalidRequest(f"num_frames must be 4k + 1, not {request.num_frames}.", field="num_frames")
    if not 1 <= request.steps <= MAX_STEPS:
        raise InvalidRequest(f"steps must be 1 … {MAX_STEPS}, not {request.steps}.", field="steps")
    if not 0 < request.flow_shift < inf:
        raise InvalidRequest(f"flow_shift must be above 0, not {request.flow_shift}.", field="flow_shift")
    if not isfinite(request.guidance_scale):
        raise InvalidRequest("guidance_scale must be a finite number.", field="guidance_scale")
    if not -(2**63) <= request.seed < 2**64:
        raise InvalidRequest("seed must fit in 64 bits.", field="seed")
    _check_image(variant, request)


def _check_image(variant: Variant, request: GenerationRequest) -> None:
    if request.image is None:
        if "t2v" not in variant.tasks:
            raise InvalidRequest(f"{variant.name} needs an image.", field="image")
        return
    if "i2v" not in variant.tasks:
        raise InvalidRequest(f"{variant.name} takes no image.", field="image")
    if request.image.shape != (request.height, request.width, 3) or request.image.dtype != np.uint8:
        raise InvalidRequest(
            f"The image must be 8-bit RGB and {request.width}x{request.height}, the size of the video.",
            field="image",
        )


def _held(latents: Tensor, first_frame: Tensor | None) -> Tensor:
    """The latents with their first frame held at the clean picture, if there is one."""
    return latents if first_frame is None else torch.cat([first_frame, latents[:, :, 1:]], dim=2)


def _own(generation: Generation) -> WanGeneration:
    if not isinstance(generation, WanGeneration):
        raise ModelError("This run was prepared by another engine.")
    return generation
