"""The Wan engine: prepare a run, denoise it step by step, decode its frames."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.attention.cross_attention import TextKeys, stacked
from models.conditioning.conditioner import Condition, conditioner, pixels
from models.conditioning.held_frames import Held
from models.conditioning.image_encoder import ImageEncoder
from models.conditioning.text_encoder import Text
from models.engine import Frames, Generation, GenerationRequest
from models.errors import ModelError, OutOfMemory
from models.limits import BATCHED_TOKENS as BATCHED_TOKENS
from models.lora.cache import ChosenLoras, LoraShelf
from models.memory.check import check_request as check_memory
from models.pipeline.fragment import Fragment
from models.pipeline.sampling import (
    Euler,
    Solver,
    UniPC,
    distilled_high_noise_steps,
    distilled_schedule,
    high_noise_steps,
    unipc_schedule,
)
from models.pipeline.torch_errors import as_model_errors
from models.request_check import check_request
from models.transformer.denoiser import Denoiser
from models.transformer.step_cache import StepCache, step_caches
from models.vae.preview import LatentColours
from models.vae.streaming_vae import StreamingVae
from models.vae.tiles import Tiling
from models.variants import Variant


@dataclass(frozen=True, slots=True)
class Stage:
    """The steps ``begin`` … ``end - 1`` of a run, which one expert takes."""

    denoiser: Denoiser
    guidance_scale: float
    """1 where there is no guidance."""
    begin: int
    end: int


@dataclass(slots=True)
class WanGeneration:
    """One run. ``latents``: float32 ``[1, channels, frames, height, width]``, as of ``step``."""

    request: GenerationRequest
    solver: Solver
    latents: Tensor
    condition: Condition
    embeddings: tuple[Tensor, ...]
    """The prompt and, if any stage is guided, the negative prompt, as the text encoder left them."""
    stages: tuple[Stage, ...]
    rotation: Tensor
    part: Fragment
    loras: ChosenLoras
    prompts: tuple[TextKeys, ...] = ()
    """The keys of the present stage's prompts: apart, or stacked as one batch."""
    caches: tuple[StepCache | None, ...] = ()
    """What is remembered for each of ``prompts``, the deciding one first; None where no step is skipped."""
    skipped_steps: int = 0
    """Of the steps done, those that left out most of the transformer."""
    step: int = 0

    @property
    def fragment(self) -> int:
        return self.part.index

    @property
    def stage(self) -> Stage:
        return next(stage for stage in self.stages if self.step < stage.end)

    @property
    def total_steps(self) -> int:
        return len(self.solver.schedule.timesteps)


class WanEngine:
    """Implements ``models.engine.Engine``, on one device or as one rank of a group.

    In a group every rank makes the same calls in the same order and asks ``agree`` before each step, so that
    all leave a run together. All of them iterate over ``decode``; rank 0 alone gets the frames. An error in a
    step, in a decode or while pictures are encoded, on whichever rank, is the end of the group; ``GroupLost``
    says so.
    """

    def __init__(
        self,
        variant: Variant,
        text: Text,
        denoiser: Denoiser,
        vae: StreamingVae,
        low_noise: Denoiser | None = None,
        image_encoder: ImageEncoder | None = None,
        loras: LoraShelf | None = None,
        cache_threshold: float = 0.0,
        tiles_when_full: Tiling | None = None,
    ) -> None:
        self._variant = variant
        self._text = text
        self._denoiser = denoiser
        self._low_noise = low_noise
        """The second expert of a model that has two."""
        self._vae = vae
        self._loras = loras or LoraShelf()
        self._condition = conditioner(variant, vae, image_encoder)
        self._colours = LatentColours(vae)
        self._mesh = denoiser.mesh
        self._cache_threshold = cache_threshold
        self._tiles_when_full = tiles_when_full

    @torch.inference_mode()
    def prepare(self, request: GenerationRequest, after: Generation | None = None) -> WanGeneration:
        check_request(self._variant, request)
        with self._mesh.together():
            device, dtype = self._denoiser.device, self._denoiser.dtype
            check_memory(self._variant, request, device, dtype, self._mesh.plan)
        with as_model_errors("preparing"):
            solver = self._solver(request)
            stages = self._stages(request, solver)
        embeddings = self._embeddings(request, stages)
        tail = None if after is None else _own(after).part.tail(self._mesh)
        part = Fragment(self._variant, request, 0 if after is None else after.fragment + 1)
        with self._mesh.together(), as_model_errors("preparing"):
            loras = self._loras.choose(request.loras)
            noise = self._noise(request, part)
            condition = self._conditioned(request, tail, noise)
            run = WanGeneration(
                request=request,
                solver=solver,
                latents=_placed(noise, condition.held, solver.schedule.sigmas[0]),
                condition=condition,
                embeddings=embeddings,
                stages=stages,
                rotation=self._denoiser.rotation(noise),
                part=part,
                loras=loras,
            )
            self._loras.put_on(run.loras)
            self._enter_stage(run)
            return run

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
            self._loras.put_on(run.loras)  # another run may have been at work in between
            if run.step == run.stage.begin > 0:
                self._enter_stage(run)
            velocity = self._velocity(run)
            latents = run.solver.step(run.step, velocity, run.latents)
            run.latents = _placed(latents, run.condition.held, run.solver.schedule.sigmas[run.step + 1])
            if latents.is_cuda:
                torch.cuda.synchronize(latents.device)  # a step that is reported must have been done
        run.step += 1

    def decode(self, generation: Generation) -> Iterator[Frames]:
        run = _own(generation)
        if run.step < run.total_steps:
            raise ModelError(f"Only {run.step} of {run.total_steps} steps of this run are done.")
        return run.part.shown(self._frames(run.latents[:, :, len(run.request.references) :]))

    @torch.inference_mode()
    def preview(self, generation: Generation) -> Frames:
        """A picture ``[height / stride, width / stride, 3]`` for each latent frame, before the first step of
        the noise. No other rank takes part.
        """
        run = _own(generation)
        clean = run.latents if run.solver.clean is None else run.solver.clean
        with as_model_errors("previewing"):
            shown = _placed(clean, run.condition.held, sigma=0.0)
            return self._colours(shown[:, :, len(run.request.references) :])

    def _frames(self, latents: Tensor) -> Iterator[Frames]:
        shown = 0
        try:
            for frames in self._decoded(latents):
                shown += len(frames)
                yield frames
            return
        except OutOfMemory:
            if self._tiles_when_full is None:
                raise
        # not in there: the error keeps alive what filled the memory
        for frames in self._decoded(latents, self._tiles_when_full):
            rest, shown = frames[shown:], max(shown - len(frames), 0)
            if len(rest):
                yield rest

    def _decoded(self, latents: Tensor, tiling: Tiling | None = None) -> Iterator[Frames]:
        with as_model_errors("decoding"):
            for chunk in self._vae.decode(latents, tiling):
                levels = (chunk.float() * 0.5 + 0.5).mul(255.0).round().to(torch.uint8)
                yield levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def _conditioned(self, request: GenerationRequest, tail: Frames | None, noise: Tensor) -> Condition:
        """What this fragment is shown: the request's pictures, or the end of the fragment before it."""
        if tail is None:
            return self._condition(request)
        if "i2v" in self._variant.tasks:
            return self._condition(replace(request, image=tail[-1]))
        known = self._vae.encode(pixels(tail))
        return Condition(held=Held(known, noise[:, :, : known.shape[2]]))

    def _noise(self, request: GenerationRequest, part: Fragment) -> Tensor:
        """Drawn on the CPU, so that a seed means the same video on any device; anew for each fragment."""
        variant = self._variant
        shape = (
            1,
            variant.latent_channels,
            len(request.references) + variant.latent_frames(request.num_frames),
            request.height // variant.spatial_stride,
            request.width // variant.spatial_stride,
        )
        generator = torch.Generator("cpu").manual_seed((request.seed + part.index) % 2**64)
        return torch.randn(shape, generator=generator, dtype=torch.float32).to(self._denoiser.device)

    def _solver(self, request: GenerationRequest) -> Solver:
        if self._variant.distilled:
            return Euler(distilled_schedule(request.steps, request.flow_shift))
        return UniPC(unipc_schedule(request.steps, request.flow_shift))

    def _stages(self, request: GenerationRequest, solver: Solver) -> tuple[Stage, ...]:
        high, low = request.guidance_scale, request.guidance_scale_2
        if low is None:
            low = high
        if self._variant.distilled:
            high = low = 1.0
        steps = len(solver.schedule.timesteps)
        if self._low_noise is None or self._variant.boundary is None:
            return (Stage(self._denoiser, high, 0, steps),)
        switch = (
            distilled_high_noise_steps(steps)
            if self._variant.distilled
            else high_noise_steps(solver.schedule, self._variant.boundary)
        )
        stages = Stage(self._denoiser, high, 0, switch), Stage(self._low_noise, low, switch, steps)
        return tuple(stage for stage in stages if stage.begin < stage.end)

    def _embeddings(self, request: GenerationRequest, stages: tuple[Stage, ...]) -> tuple[Tensor, ...]:
        prompts = [request.prompt]
        if any(stage.guidance_scale > 1 for stage in stages):
            prompts.append(request.negative_prompt)
        with as_model_errors("encoding the prompt"):
            return tuple(self._text.encode(prompt) for prompt in prompts)

    def _enter_stage(self, run: WanGeneration) -> None:
        """What a run has of one expert alone."""
        run.prompts = self._prompts(run)
        run.caches = step_caches(self._mesh, self._cache_threshold, len(run.prompts))

    def _prompts(self, run: WanGeneration) -> tuple[TextKeys, ...]:
        """What this rank attends to in this stage: every prompt, or the one of its half of the group."""
        request, denoiser = run.request, run.stage.denoiser
        wanted = run.embeddings if run.stage.guidance_scale > 1 else run.embeddings[:1]
        keys = [denoiser.text(embedding) for embedding in self._mesh.share(list(wanted), "cfg")]
        tokens = self._variant.tokens(request.width, request.height, request.num_frames)
        if len(keys) > 1 and tokens <= BATCHED_TOKENS:
            keys = [stacked(keys)]
        if run.condition.embeddings is not None:
            image = denoiser.image(run.condition.embeddings)
            keys = [replace(prompt, image=image) for prompt in keys]
        return tuple(keys)

    def _velocity(self, run: WanGeneration) -> Tensor:
        timesteps = torch.full((1,), run.solver.schedule.timesteps[run.step], device=run.latents.device)
        seen = run.latents
        if run.condition.channels is not None:
            seen = torch.cat([seen, run.condition.channels], dim=1)
        held = run.condition.held
        if held is not None and held.clean:
            timesteps = timesteps.repeat(run.latents.shape[2])
            timesteps[: held.latents.shape[2]] = 0.0  # it is there already: no noise to tell the model of
        caches = run.caches
        if run.step + 1 == run.total_steps:  # what it makes is what is seen
            caches = (None,) * len(run.prompts)
        control, scale = run.condition.control, run.request.control_scale
        batches = [
            run.stage.denoiser(seen, timesteps, prompt, run.rotation, control, scale, cache)
            for prompt, cache in zip(run.prompts, caches, strict=True)
        ]
        run.skipped_steps += caches[0] is not None and caches[0].skipping
        velocities = torch.cat(batches).float()
        if run.stage.guidance_scale <= 1:
            return velocities
        conditional, unconditional = self._mesh.gathered(velocities, "cfg").flatten(0, 1).chunk(2)
        return unconditional + run.stage.guidance_scale * (conditional - unconditional)


def _placed(latents: Tensor, held: Held | None, sigma: float) -> Tensor:
    return latents if held is None else held.placed(latents, sigma)


def _own(generation: Generation) -> WanGeneration:
    if not isinstance(generation, WanGeneration):
        raise ModelError("This run was prepared by another engine.")
    return generation
