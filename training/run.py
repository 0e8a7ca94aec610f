"""The whole training, part by part; each part resumes from its checkpoint."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.demo.architecture import (
    assembled,
    build_text_encoder,
    build_transformer,
    build_vae,
    loaded,
)
from models.demo.exam import LORA
from training import flow, student, vae
from training.dataset import as_video, clip, picture
from training.latents import cached, normalised, statistics
from training.plan import Plan
from training.progress import Progress
from training.prompts import PromptEncoder, at_step
from training.report import report
from training.trained import Trained
from training.velocity import Velocity
from training.warm_start import take_over
from training.whole_clip import WholeClipVae

_SAVE_EVERY = 100
_PARTS_UNTIL = 0.94
"""The share of the VAE's steps after which they are of whole clips."""
_PICTURES = 4
"""One step of so many is of pictures, each with so many more of them than another has parts of clips."""
_AT_ONCE = 256
"""Clips that the teacher denoises in one batch."""
_STATISTICS = "latents_mean", "latents_std"
"""Of each channel, by their names in the VAE's configuration."""


Losses: TypeAlias = tuple[Tensor, dict[str, Tensor]]
"""The loss, and further figures for the progress line."""


class Training:
    """Runs the training. ``work`` holds the checkpoints, ``out`` receives the model's folder, ``say`` prints
    a line.
    """

    def __init__(self, plan: Plan, work: Path, out: Path, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._work = work
        self._out = out
        self._say = say
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(plan.seed)
        parts = build_vae(), build_transformer(), build_text_encoder()
        vae.initialise(parts[0])
        if plan.start is not None:
            known_parts = loaded(plan.start)
            for part, known in zip(parts, known_parts, strict=True):
                take_over(part, known)
            parts[0].register_to_config(**{name: known_parts[0].config[name] for name in _STATISTICS})
        self._vae, self._transformer, self._text_encoder = (part.float().to(self._device) for part in parts)

    def run(self) -> None:
        """Run every part that is not finished yet, and examine the model."""
        self.train()
        report(self._out, self._work, self._plan.scored, self._say)

    def train(self) -> None:
        """Run every part that is not finished yet."""
        self._work.mkdir(parents=True, exist_ok=True)
        latents = self._latents(self._train_vae())
        self._train_flow(latents)
        self._write_model()
        self._train_student(latents)

    def _train_vae(self) -> WholeClipVae:
        plan = self._plan
        whole = WholeClipVae(self._vae, compiled=plan.compiled)

        def loss(step: int) -> Losses:
            generator, _ = at_step(plan.seed, step)
            video = self._video(step, generator).to(self._device)
            loss, error = vae.loss(whole, video, generator)
            return loss, {"psnr": _psnr(error)}

        trained = Trained({"vae": self._vae}, steps=plan.vae_steps, learning_rate=1e-3, mean_over=200)
        self._fit("vae", trained, loss)
        return whole

    def _video(self, step: int, generator: torch.Generator) -> Tensor:
        """Draw the VAE's batch of a step: parts of clips, now and then pictures, in the end a whole clip."""
        plan = self._plan
        if step >= plan.vae_steps * _PARTS_UNTIL:
            return as_video([clip(plan.seed, step * plan.vae_batch)])
        if step % _PICTURES == 0:
            count = _PICTURES * plan.vae_batch
            return as_video(picture(plan.seed, step * count + number) for number in range(count))
        clips = as_video(clip(plan.seed, step * plan.vae_batch + number) for number in range(plan.vae_batch))
        return vae.crop(clips, 64, 9, generator)

    def _latents(self, whole: WholeClipVae) -> Tensor:
        """Encode and normalise all clips, by the mean and deviation in the VAE's configuration: theirs, but
        those of the model to begin with where the VAE stays as it was.
        """
        plan = self._plan
        self._say(f"latents: of {plan.clips} clips")
        latents = cached(whole, self._work, plan.seed, plan.clips, self._device)
        if plan.start is None or plan.vae_steps:
            found = (each.tolist() for each in statistics(latents))
            self._vae.register_to_config(**dict(zip(_STATISTICS, found, strict=True)))
        mean, deviation = (torch.tensor(self._vae.config[name]) for name in _STATISTICS)
        return normalised(latents, mean, deviation).half().to(self._device)

    def _train_flow(self, latents: Tensor) -> None:
        plan = self._plan
        velocity = Velocity(self._transformer, compiled=plan.compiled)
        prompts = PromptEncoder(self._text_encoder)

        def loss(step: int) -> Losses:
            return flow.loss(velocity, prompts, latents, plan.seed, step, plan.flow_batch), {}

        modules = {"transformer": self._transformer, "text_encoder": self._text_encoder}
        self._fit("flow", Trained(modules, steps=plan.flow_steps, learning_rate=8e-4), loss)

    def _write_model(self) -> None:
        """Write the model's folder in float16, the weights that the student is trained on."""
        parts = (self._vae, self._transformer, self._text_encoder)
        for part in parts:
            part.half()
        assembled(*parts).save_pretrained(self._out, safe_serialization=True)
        for part in parts:
            part.float()

    def _train_student(self, latents: Tensor) -> None:
        plan = self._plan
        prompts = PromptEncoder(self._text_encoder)
        lessons = self._lessons(latents, prompts)
        torch.manual_seed(plan.seed)
        parts = student.put_on(self._transformer)
        velocity = Velocity(self._transformer, compiled=plan.compiled)

        def loss(step: int) -> Losses:
            generator, _ = at_step(plan.seed, step)
            return student.loss(velocity, prompts, lessons, generator, plan.flow_batch), {}

        trained = Trained({"lora": parts}, steps=plan.student_steps, learning_rate=2e-3, weight_decay=0.0)
        self._fit("student", trained, loss)
        student.write(parts, self._out / LORA)

    def _lessons(self, latents: Tensor, prompts: PromptEncoder) -> student.Lessons:
        plan = self._plan
        file = self._work / "student" / "lessons.safetensors"
        lessons = student.Lessons.drawn(plan.seed, latents, plan.student_clips)
        if file.is_file():
            return replace(lessons, states=load_file(file)["states"].to(self._device))
        velocity = Velocity(self._transformer, compiled=plan.compiled)
        progress = Progress("teacher", 0, plan.student_clips, self._say)
        walked = []
        with self._precision():
            for begin in range(0, plan.student_clips, _AT_ONCE):
                part = lessons[begin : begin + _AT_ONCE]
                walked.append(student.walked(velocity, prompts, part).half())
                progress(begin + len(part.texts))
        states = torch.cat(walked)
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"states": states}, file)
        return replace(lessons, states=states)

    def _fit(self, name: str, trained: Trained, loss_of: Callable[[int], Losses]) -> None:
        """Run the remaining steps of a part, with checkpoints; afterwards its weights are their running
        mean.
        """
        folder = self._work / name
        trained.load(folder)
        progress = Progress(name, trained.step, trained.steps, self._say)
        while not trained.is_done:
            with self._precision():
                loss, figures = loss_of(trained.step)
            trained.update(loss)
            progress(trained.step, loss=float(loss.detach()), **{k: float(v) for k, v in figures.items()})
            if trained.step % _SAVE_EVERY == 0 or trained.is_done:
                trained.save(folder)
        trained.swap()
        trained.freeze()

    def _precision(self) -> Any:
        return torch.autocast(self._device.type, torch.bfloat16)


def _psnr(error: Tensor) -> Tensor:
    """Compute the PSNR in dB of a video in −1 … 1."""
    return 10 * torch.log10(4 / error.detach())
