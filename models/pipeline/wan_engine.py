"""The Wan engine: prepare a run, denoise it step by step, decode its frames."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from models.attention.cross_attention import TextKeys, stacked
from models.conditioning.conditioner import Condition, conditioner, encodes, pixels
from models.conditioning.known_latents import KnownLatents
from models.engine import Frames, Generation, GenerationRequest, PendingSnapshot, Snapshot
from models.errors import ModelError, OutOfMemory
from models.limits import BATCHED_TOKENS
from models.memory.check import check_memory
from models.memory.estimate import KernelScratch, WeightsGrowth
from models.memory.scratch import kernel_scratch
from models.phase import OnPhase, Phase, untold
from models.pipeline.fragment import Fragment
from models.pipeline.generation import Stage, WanGeneration
from models.pipeline.parts import Parts
from models.pipeline.pixels import converted
from models.pipeline.readback import read_back
from models.pipeline.resolution import drawn, enlarged, halved, raised
from models.pipeline.run_state import copied, put_back
from models.pipeline.sampling import Euler, Solver, UniPC, distilled_schedule, unipc_schedule
from models.pipeline.stages import stages_of
from models.pipeline.torch_errors import as_model_errors
from models.pixel_format import PixelFormat
from models.prompt_notes import prompt_name, prompt_notes
from models.request_check import check_request
from models.transformer.step_cache import step_caches
from models.vae.preview import LatentColours
from models.vae.tiles import Tiling
from models.variants import Variant


class WanEngine:
    """Implements ``models.engine.Engine``, on one device or as one rank of a group.

    In a group, every rank must make the same calls in the same order, and leave a run at the same step: a
    rank that left alone would hang the others. All ranks iterate over ``decode``; rank 0 alone gets the
    frames. An error in a step, in a decode or while pictures are encoded ends the group, on whichever rank it
    occurs; later calls raise ``GroupLost``.
    """

    def __init__(
        self,
        variant: Variant,
        parts: Parts,
        *,
        batched_tokens: int = BATCHED_TOKENS,
        cache_threshold: float = 0.0,
        exact_steps: float = 0.0,
        unguided_steps: float = 0.0,
        low_resolution_steps: float = 0.0,
        tiles_when_full: Tiling | None = None,
        scratch: KernelScratch | None = None,
        growth: Callable[[nn.Module], int] | None = None,
    ) -> None:
        """``batched_tokens``: sequence length up to which both guidance forwards run as one batch;
        ``cache_threshold``, ``exact_steps``, ``unguided_steps``,
        ``low_resolution_steps``: see ``models.tuning.Tuning``;
        ``tiles_when_full``: tiles for a decode that runs out of memory on whole pictures, None for no second
        try; ``scratch``: of the model's kernels, None for those of a model without speed settings;
        ``growth``: tells by how many bytes the weights on the device will have grown when a network is at
        work, None where all are there.
        """
        self.variant = variant
        self.parts = parts
        self._batched_tokens = batched_tokens
        self._cache_threshold = cache_threshold
        self._exact_steps = exact_steps
        self._unguided_steps = unguided_steps
        self._low_resolution_steps = low_resolution_steps
        self._tiles_when_full = tiles_when_full
        self._scratch = scratch or kernel_scratch(parts.denoiser.device, parts.denoiser.dtype)
        self._growth = growth or (lambda _: 0)
        self._condition = conditioner(variant, parts.vae, parts.image_encoder)
        self._colours = LatentColours(parts.vae)
        self._mesh = parts.denoiser.mesh

    @property
    def evictions(self) -> Mapping[str, int]:
        """What the caches of LoRAs and of encoded prompts have dropped, of prompts on rank 0 alone."""
        return {"lora": self.parts.loras.evictions, "prompt": self.parts.text.evictions}

    @torch.inference_mode()
    def prepare(
        self, request: GenerationRequest, after: Generation | None = None, on_phase: OnPhase = untold
    ) -> WanGeneration:
        """Check the request and its memory, encode prompts and pictures, draw the noise.

        Raises ``InvalidRequest``, ``OutOfMemory`` or another ``ModelError``; ``DeviceLost``, or ``GroupLost``
        in a group.
        """
        check_request(self.variant, request)
        with self._mesh.together(), as_model_errors("preparing"):
            device, dtype = self.parts.denoiser.device, self.parts.denoiser.dtype
            movable = self.parts.loras.movable_bytes
            plan, scratch = self._mesh.plan, self._scratch
            growth = self._weights_growth()
            needed = check_memory(self.variant, request, device, dtype, plan, scratch, movable, growth)
        with as_model_errors("preparing"):
            solver = self._solver(request)
            is_shown = after is not None or request.tail is not None or encodes(self.variant, request)
            small_share = 0.0 if is_shown else self._low_resolution_steps
            stages = stages_of(
                self.variant, self.parts, request, solver.schedule, self._unguided_steps, small_share
            )
        part = Fragment(self.variant, request, 0 if after is None else after.fragment + 1)
        on_phase(Phase.ENCODING_TEXT)
        embeddings = self._embeddings(request, part, stages)
        tail = request.tail if after is None else _own(after).part.tail(self._mesh)
        with self._mesh.together(), as_model_errors("preparing"):
            loras = self.parts.loras.choose(request.loras)
            # merging takes no more than a run's text keys, which are counted
            self.parts.loras.put_on(loras, needed)
            self.parts.loras.make_room(needed)
            noise, small = self._noise(request, part, is_small=stages[0].is_small)
            start = noise if small is None else small
            if tail is not None or encodes(self.variant, request):
                on_phase(Phase.ENCODING_IMAGE)
            condition = self._conditioned(request, tail, noise)
            on_phase(Phase.PREPARING)
            run = WanGeneration(
                request=request,
                solver=solver,
                latents=_placed(start, condition.known, solver.schedule.sigmas[0]),
                condition=condition,
                embeddings=embeddings,
                stages=stages,
                rotation=self.parts.denoiser.rotation(start),
                part=part,
                loras=loras,
                needed_bytes=needed,
                noise=None if small is None else noise,
                notes=self._notes(request, part),
            )
            self._enter_stage(run)
            return run

    @torch.inference_mode()
    def denoise_step(self, generation: Generation) -> None:
        """Do the next step, with the run's own LoRAs and expert.

        Raises ``ModelError`` if no step is left or the step fails, ``OutOfMemory``, ``DeviceLost``, or
        ``GroupLost`` in a group.
        """
        run = _own(generation)
        if run.step == run.total_steps:
            raise ModelError(f"All {run.total_steps} steps of this run are done.")
        with as_model_errors("denoising"), self._mesh.lockstep():
            # another run may have put on its own in between
            self.parts.loras.put_on(run.loras, run.needed_bytes)
            if run.step == run.stage.begin > 0:
                self._enter_stage(run)
            velocity = self._velocity(run)
            latents = run.solver.step(run.step, velocity, run.latents)
            run.latents = _placed(latents, run.condition.known, run.solver.schedule.sigmas[run.step + 1])
            if latents.is_cuda:
                torch.cuda.synchronize(latents.device)  # a reported step must be complete, not just queued
        run.step += 1

    @torch.inference_mode()
    def cut_short(self, generation: Generation) -> None:
        """End the denoising here; the predicted clean latents are what is decoded. Runs on this rank alone.

        Raises ``ModelError`` before the first step.
        """
        run = _own(generation)
        if run.step == run.total_steps:
            return
        if run.solver.clean is None:
            raise ModelError("A run of which no step is done has nothing to show.")
        run.latents = _placed(_whole(run.solver.clean, run), run.condition.known, sigma=0.0)
        run.is_cut = True

    def snapshot(self, generation: Generation) -> PendingSnapshot | None:
        """Begin to copy the state of the run; the same on every rank, so that of one will do for all.

        Returns None while a step cache holds state of the run, and for a run that was cut short. Runs on this
        rank alone.
        """
        with as_model_errors("keeping the run"):
            return copied(_own(generation))

    @torch.inference_mode()
    def restore(self, generation: Generation, snapshot: Snapshot) -> None:
        """Put a prepared run at a snapshot, with the expert of its next step. In a group on every rank.

        Raises ``ModelError``, or ``GroupLost`` in a group.
        """
        run = _own(generation)
        with self._mesh.together(), as_model_errors("going on with the run"):
            put_back(run, snapshot)
            if run.step < run.total_steps:
                self.parts.loras.put_on(run.loras, run.needed_bytes)
                run.rotation = run.stage.denoiser.rotation(run.latents)
                self._enter_stage(run)

    def decode(
        self, generation: Generation, pixel_format: PixelFormat = PixelFormat.RGB24
    ) -> Iterator[Frames]:
        """Yield the fragment's frames chunk by chunk, without the overlap with the fragment before.

        Raises ``ModelError`` at the call if steps are left to do.
        """
        run = _own(generation)
        if run.step < run.total_steps:
            raise ModelError(f"Only {run.step} of {run.total_steps} steps of this run are done.")
        return self._frames(run, pixel_format)

    @torch.inference_mode()
    def preview(self, generation: Generation) -> Frames:
        """Map the predicted clean latents to a small picture for each latent frame, ``[f, h / stride, w /
        stride, 3]``.

        Shows the noise before the first step. Runs on this rank alone.
        """
        run = _own(generation)
        clean = run.latents if run.solver.clean is None else run.solver.clean
        with as_model_errors("previewing"):
            shown = _placed(_whole(clean, run), run.condition.known, sigma=0.0)
            return self._colours(shown[:, :, len(run.request.references) :])

    def _frames(self, run: WanGeneration, pixel_format: PixelFormat) -> Iterator[Frames]:
        """Bring the frames to the host; on a GPU while the next chunk is decoded."""
        # a CPU computes when it is asked to; in a group the commander looks ahead
        ahead = run.latents.is_cuda and self._mesh.plan.devices == 1
        pixels = self.parts.vae.pixels
        with as_model_errors("decoding"):
            chunks = run.part.shown(self._chunks(run.latents[:, :, len(run.request.references) :]))
            yield from read_back((converted(chunk, pixel_format, pixels) for chunk in chunks), ahead)

    def _chunks(self, latents: Tensor) -> Iterator[Tensor]:
        """Decode, once more in tiles if memory runs out and the settings say so."""
        shown = 0
        try:
            for chunk in self._decoded(latents):
                shown += len(chunk)
                yield chunk
            return
        except OutOfMemory:
            if self._tiles_when_full is None:
                raise
        # outside the except block: a live exception keeps the tensors that filled memory
        for chunk in self._decoded(latents, self._tiles_when_full):
            rest, shown = chunk[shown:], max(shown - len(chunk), 0)
            if len(rest):
                yield rest

    def _decoded(self, latents: Tensor, tiling: Tiling | None = None) -> Iterator[Tensor]:
        with as_model_errors("decoding"):
            yield from self.parts.vae.decode(latents, tiling)

    def _conditioned(self, request: GenerationRequest, tail: Frames | None, noise: Tensor) -> Condition:
        """Encode this fragment's conditioning: the request's pictures, or the tail that it goes on from."""
        if tail is None:
            return self._condition(request)
        if "i2v" in self.variant.tasks:
            return self._condition(replace(request, image=tail[-1]))
        known = self.parts.vae.encode(pixels(tail))
        return Condition(known=KnownLatents(known, noise[:, :, : known.shape[2]]))

    def _weights_growth(self) -> WeightsGrowth:
        vae = self.parts.vae
        return WeightsGrowth(
            encode=self._growth(vae.encoder),
            step=max(self._growth(denoiser.transformer) for denoiser in self.parts.denoisers),
            decode=self._growth(vae.decoder),
        )

    def _noise(
        self, request: GenerationRequest, part: Fragment, *, is_small: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Draw the fragment's noise, and where its first steps are small, theirs."""
        variant = self.variant
        shape = (
            1,
            variant.latent_channels,
            len(request.references) + variant.latent_frames(request.num_frames),
            request.height // variant.spatial_stride,
            request.width // variant.spatial_stride,
        )
        seed = (request.seed + request.fragments_before + part.index) % 2**64
        shapes = (shape, halved(shape, variant.patch)) if is_small else (shape,)
        noise, *small = (each.to(self.parts.denoiser.device) for each in drawn(seed, *shapes))
        return noise, small[0] if small else None

    def _solver(self, request: GenerationRequest) -> Solver:
        if self.variant.distilled:
            return Euler(distilled_schedule(request.steps, request.flow_shift))
        return UniPC(unipc_schedule(request.steps, request.flow_shift))

    def _embeddings(
        self, request: GenerationRequest, part: Fragment, stages: tuple[Stage, ...]
    ) -> tuple[Tensor, ...]:
        prompts = [request.prompt_of(part.index)]
        if any(stage.guidance_scale > 1 for stage in stages):
            prompts.append(request.negative_prompt)
        with as_model_errors("encoding the prompt"):
            return tuple(self.parts.text.encode(prompt) for prompt in prompts)

    def _notes(self, request: GenerationRequest, part: Fragment) -> tuple[str, ...]:
        prompts = {prompt_name(request.fragment_prompts, part.index): request.prompt_of(part.index)}
        cut_note = self.parts.text.cut_note
        return prompt_notes(self.variant, prompts, request.negative_prompt, cut_note)

    def _enter_stage(self, run: WanGeneration) -> None:
        """Set the run's state that belongs to one stage: text keys, step caches, and the latents' size."""
        if run.noise is not None and not run.stage.is_small:
            assert run.solver.clean is not None
            run.latents = raised(run.solver.clean, run.noise, run.solver.schedule.sigmas[run.step])
            run.solver.restart()
            run.noise, run.rotation = None, run.stage.denoiser.rotation(run.latents)
        run.prompts = self._prompts(run)
        run.caches = step_caches(self._mesh, self._cache_threshold, len(run.prompts))

    def _prompts(self, run: WanGeneration) -> tuple[TextKeys, ...]:
        """Compute the text keys of this rank's prompts: all, or with cfg 2 that of its half of the group."""
        request, denoiser = run.request, run.stage.denoiser
        wanted = run.embeddings if run.stage.guidance_scale > 1 else run.embeddings[:1]
        keys = [denoiser.text(embedding) for embedding in self._mesh.share(list(wanted), "cfg")]
        tokens = self.variant.tokens(request.width, request.height, request.num_frames)
        if len(keys) > 1 and tokens <= self._batched_tokens:
            keys = [stacked(keys)]
        if run.condition.embeddings is not None:
            image = denoiser.image(run.condition.embeddings)
            keys = [replace(prompt, image=image) for prompt in keys]
        return tuple(keys)

    def _velocity(self, run: WanGeneration) -> Tensor:
        timesteps = torch.full((1,), run.solver.schedule.timesteps[run.step], device=run.latents.device)
        inputs = run.latents
        if run.condition.channels is not None:
            inputs = torch.cat([inputs, run.condition.channels], dim=1)
        known = run.condition.known
        if known is not None and known.clean:
            timesteps = timesteps.repeat(run.latents.shape[2])
            timesteps[: known.latents.shape[2]] = 0.0  # known frames are free of noise
        caches = run.caches
        if run.step + 1 == run.total_steps:  # never skip in the last step: its output is the video
            caches = (None,) * len(run.prompts)
        control, scale = run.condition.control, run.request.control_scale
        exact = run.step / run.total_steps < self._exact_steps
        batches = [
            run.stage.denoiser(inputs, timesteps, prompt, run.rotation, control, scale, cache, exact=exact)
            for prompt, cache in zip(run.prompts, caches, strict=True)
        ]
        run.skipped_steps += caches[0] is not None and caches[0].skipping
        velocities = torch.cat(batches).float()
        if run.stage.guidance_scale <= 1:
            return velocities
        conditional, unconditional = self._mesh.all_gather(velocities, "cfg").flatten(0, 1).chunk(2)
        return unconditional + run.stage.guidance_scale * (conditional - unconditional)


def _placed(latents: Tensor, known: KnownLatents | None, sigma: float) -> Tensor:
    return latents if known is None else known.placed(latents, sigma)


def _whole(clean: Tensor, run: WanGeneration) -> Tensor:
    """Return clean latents of a run at full size."""
    return clean if run.noise is None else enlarged(clean, run.noise)


def _own(generation: Generation) -> WanGeneration:
    if not isinstance(generation, WanGeneration):
        raise ModelError("This run was prepared by another engine.")
    return generation
