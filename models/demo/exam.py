"""Exam of the demo model: generates videos for random prompts and counts how many match their prompt."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

from models.demo.clips import draw
from models.demo.grammar import SCENES, Scene
from models.demo.score import Score, score
from models.engine import Engine, EngineSettings, Frames, FusedLora, GenerationRequest
from models.generate import generate
from models.variants import Variant

WEIGHTS = Path(__file__).resolve().parent / "weights"
LORA = "4_steps_lora.safetensors"
"""The LoRA file that makes the model the 4-step one."""


def settings_of(variant: Variant, folder: Path = WEIGHTS) -> EngineSettings:
    """Return the settings of the demo model in ``folder``, in its base or its 4-step form."""
    loras = (FusedLora(folder / LORA),) if variant.distilled else ()
    return EngineSettings(variant, folder, fused_loras=loras)


@dataclass(frozen=True, slots=True)
class Answer:
    """A prompt, the model's video and its score."""

    scene: Scene
    prompt: str
    frames: Frames
    score: Score
    seconds: float

    @property
    def verdict(self) -> str:
        """Return the prompt, followed by the video's faults."""
        wrong = [
            name for name in ("background", "colour", "shape", "motion") if not getattr(self.score, name)
        ]
        if self.score.first_frame is False:
            wrong.append("first frame")
        return f"{self.prompt} [wrong: {', '.join(wrong)}]" if wrong else self.prompt


@dataclass(frozen=True, slots=True)
class Marks:
    """Shares of right answers, 0 … 1, and the mean time of an answer."""

    background: float
    colour: float
    shape: float
    motion: float
    everything: float
    first_frame: float | None
    seconds: float


def answers(
    engine: Engine, variant: Variant, count: int, *, from_pictures: bool = False, seed: int = 0
) -> Iterator[Answer]:
    """Generate the model's answers to ``count`` prompts with the variant's default settings.

    ``from_pictures``: image-to-video, each from the first frame of a clip of that scene.
    """
    drawn = Random(seed)
    for number in range(count):
        scene = drawn.choice(SCENES)
        prompt = scene.worded(drawn)
        picture = draw(scene, np.random.default_rng((seed, number)))[0] if from_pictures else None
        began = time.monotonic()
        request = GenerationRequest.of(variant, prompt, image=picture, seed=seed + number)
        frames = np.concatenate(list(generate(engine, request)))
        seconds = time.monotonic() - began
        yield Answer(scene, prompt, frames, score(frames, scene, picture), seconds)


def marks(given: Iterable[Answer]) -> Marks:
    """Compute the marks of all ``given`` answers."""
    given = list(given)
    scores = [answer.score for answer in given]
    return Marks(
        background=_share(each.background for each in scores),
        colour=_share(each.colour for each in scores),
        shape=_share(each.shape for each in scores),
        motion=_share(each.motion for each in scores),
        everything=_share(each.everything for each in scores),
        first_frame=None
        if scores[0].first_frame is None
        else _share(bool(each.first_frame) for each in scores),
        seconds=sum(answer.seconds for answer in given) / len(given),
    )


def _share(right: Iterable[bool]) -> float:
    counted = list(right)
    return sum(counted) / len(counted)
