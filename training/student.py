"""Step distillation: a LoRA that makes 4 steps without guidance do the work of 20 guided steps.

The teacher's guided trajectory is cut at the four noise levels of a distilled model. For each segment the
student learns the one velocity that leads from the segment's start to its end.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from models.pipeline.sampling import TRAIN_TIMESTEPS, distilled_schedule
from models.variants import VARIANTS
from training import flow
from training.flow import GIVEN, sampled
from training.prompts import PromptEncoder, at_step, wordings
from training.velocity import Velocity

RANK = 32
_BEFORE_ALL_STEPS = 2**32 - 1
"""The step number that seeds what is drawn before the first step."""
_STUDENT = VARIANTS["demo-distill"]
_FINE = 5
"""Teacher steps per student step."""
SIGMAS = distilled_schedule(_STUDENT.steps, _STUDENT.flow_shift).sigmas
_TEACHER_SIGMAS = distilled_schedule(_FINE * _STUDENT.steps, _STUDENT.flow_shift).sigmas


class LowRankUpdate(nn.Module):
    """A low-rank update ``up · down`` of a weight; zero at initialisation."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        self.down = nn.Parameter(torch.empty(RANK, inputs))
        self.up = nn.Parameter(torch.zeros(outputs, RANK))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with the low-rank update added."""
        return weight + self.up @ self.down


def put_on(transformer: Any) -> nn.ModuleDict:
    """Add a low-rank update to each linear layer of the blocks; only the updates are trained."""
    transformer.requires_grad_(False)
    parts: dict[str, nn.Module] = {}
    for name, layer in transformer.blocks.named_modules():
        if isinstance(layer, nn.Linear):
            parts[name.replace(".", "/")] = part = LowRankUpdate(layer.weight)
            parametrize.register_parametrization(layer, "weight", part)
    return nn.ModuleDict(parts)


def write(parts: nn.ModuleDict, file: Path) -> None:
    """Write a LoRA file with diffusers' tensor names."""
    tensors = {}
    for name, part in parts.items():
        layer = f"transformer.blocks.{name.replace('/', '.')}"
        assert isinstance(part, LowRankUpdate)
        tensors[f"{layer}.lora_A.weight"] = part.down.detach().half().contiguous()
        tensors[f"{layer}.lora_B.weight"] = part.up.detach().half().contiguous()
    save_file(tensors, file, {"format": "pt"})


@dataclass(frozen=True, slots=True)
class Lessons:
    """Prompts and start latents for the teacher, and the states of its trajectories."""

    texts: tuple[str, ...]
    clean: Tensor
    """Latents of a clip of each prompt, whose first latent frame may be known, ``[n, z, f, h, w]``."""
    is_given: Tensor
    """Whether the first latent frame is known, ``[n]``."""
    noise: Tensor
    states: Tensor | None = None
    """The teacher's latents at each of ``SIGMAS``, ``[n, 5, z, f, h, w]``; None before they are computed."""

    @classmethod
    def drawn(cls, seed: int, latents: Tensor, count: int) -> "Lessons":
        """Draw ``count`` lessons from a seed, with clips from ``latents``."""
        generator, random = at_step(seed, _BEFORE_ALL_STEPS)
        numbers = torch.randint(len(latents), (count,), generator=generator)
        clean = latents[numbers.to(latents.device)].float()
        return cls(
            texts=tuple(wordings(numbers.tolist(), random, dropped=0.0)),
            clean=clean,
            is_given=torch.rand(count, generator=generator) < GIVEN,
            noise=torch.randn(clean.shape, generator=generator).to(latents.device),
        )

    def __getitem__(self, part: slice) -> "Lessons":
        return Lessons(self.texts[part], self.clean[part], self.is_given[part], self.noise[part])


def walked(velocity: Velocity, prompts: PromptEncoder, lessons: Lessons) -> Tensor:
    """Compute the states of ``lessons`` along the teacher's trajectories."""
    first = lessons.clean[:, :, :1]
    x = lessons.noise.clone()
    x[lessons.is_given, :, :1] = first[lessons.is_given]
    states = [x]
    for piece in range(_STUDENT.steps):
        sigmas = _TEACHER_SIGMAS[piece * _FINE : (piece + 1) * _FINE + 1]
        x = x.clone()
        for which in (lessons.is_given, ~lessons.is_given):
            if which.any():
                x[which] = sampled(
                    velocity,
                    prompts,
                    [text for text, here in zip(lessons.texts, which.tolist(), strict=True) if here],
                    x[which],
                    sigmas=sigmas,
                    guidance_scale=VARIANTS["demo"].guidance_scale,
                    first=first[which] if which is lessons.is_given else None,
                )
        states.append(x)
    return torch.stack(states, dim=1)


def loss(
    velocity: Velocity, prompts: PromptEncoder, lessons: Lessons, generator: torch.Generator, batch: int
) -> Tensor:
    """Compute the mean squared error of the velocities of one batch of the teacher's states."""
    assert lessons.states is not None
    numbers = torch.randint(len(lessons.texts), (batch,), generator=generator)
    pieces = torch.randint(len(SIGMAS) - 1, (batch,), generator=generator)
    sigmas = torch.tensor(SIGMAS)
    begin, end = (lessons.states[numbers, pieces + ahead].float() for ahead in (0, 1))
    span = (sigmas[pieces + 1] - sigmas[pieces]).view(-1, 1, 1, 1, 1).to(begin.device)
    levels = sigmas[pieces][:, None].repeat(1, begin.shape[2])
    levels[lessons.is_given[numbers], 0] = 0.0
    levels = levels.to(begin.device)
    texts = [lessons.texts[number] for number in numbers.tolist()]
    predicted = velocity(begin, levels * TRAIN_TIMESTEPS, prompts(texts))
    return flow.error(predicted, (end - begin) / span, levels)
