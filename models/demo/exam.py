"""Sets the demo model a number of prompts and tells how many of them it followed."""

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
"""What makes the folder's model the 4-step one."""


def settings_of(variant: Variant, folder: Path = WEIGHTS) -> EngineSettings:
    """The demo model in ``folder``, as it is or in its 4-step form."""
    loras = (FusedLora(folder / LORA),) if variant.distilled else ()
    return EngineSettings(variant, folder, fused_loras=loras)


@dataclass(frozen=True, slots=True)
class Answer:
    """One prompt and what the model made of it."""

    scene: Scene
    prompt: str
    frames: Frames
    score: Score
    seconds: float

    @property
    def verdict(self) -> str:
        """The prompt, and what is wrong with the video."""
        wrong = [name for name in ("background", "colour", "motion") if not getattr(self.score, name)]
        if self.score.first_frame is False:
            wrong.append("first frame")
        return f"{self.prompt} [wrong: {', '.join(wrong)}]" if wrong else self.prompt


@dataclass(frozen=True, slots=True)
class Marks:
    """Shares of the answers that are right, 0 … 1, and the mean time of one."""

    background: float
    colour: float
    motion: float
    everything: float
    first_frame: float | None
    seconds: float


def answers(
    engine: Engine, variant: Variant, count: int, *, from_pictures: bool = False, seed: int = 0
) -> Iterator[Answer]:
    """The model's answers to ``count`` prompts with the variant's own settings.

    ``from_pictures``: each begins with a picture, the first frame of a clip of that scene.
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
    """Of all ``given`` answers together."""
    given = list(given)
    scores = [answer.score for answer in given]
    return Marks(
        background=_share(each.background for each in scores),
        colour=_share(each.colour for each in scores),
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
