"""The demo model's grammar: the scenes it was trained on and the wordings of their prompts. Imports no
torch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from random import Random
from types import MappingProxyType
from typing import TypeAlias

Rgb: TypeAlias = tuple[int, int, int]

COLOURS: Mapping[str, Rgb] = MappingProxyType(
    {
        "red": (220, 30, 40),
        "green": (40, 180, 70),
        "blue": (40, 80, 230),
        "yellow": (250, 225, 50),
        "purple": (150, 50, 190),
        "orange": (250, 135, 20),
    }
)
"""Of the shape."""

BACKGROUNDS: Mapping[str, Rgb] = MappingProxyType(
    {"black": (15, 15, 20), "white": (240, 240, 240), "gray": (130, 130, 130), "blue": (40, 80, 230)}
)

SHAPES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ball": ("ball", "circle"),
        "square": ("square", "box"),
        "triangle": ("triangle",),
        "star": ("star",),
    }
)
"""Each with its words, the usual one first."""

MOTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "right": ("moving left to right", "moving from left to right", "moving to the right"),
        "left": ("moving right to left", "moving from right to left", "moving to the left"),
        "falls": ("falling", "falling down", "moving down"),
        "grows": ("growing", "growing larger", "getting bigger"),
        "bounces": ("bouncing", "bouncing up and down", "jumping up and down"),
        "spins": ("spinning", "rotating", "turning around"),
    }
)

_TEMPLATES = (
    "a {colour} {shape} {motion} on a {background} background",
    "a {colour} {shape} is {motion} on a {background} background",
    "a {colour} {shape} on a {background} background, {motion}",
    "{colour} {shape} {motion}, {background} background",
    "on a {background} background, a {colour} {shape} {motion}",
)


@dataclass(frozen=True, slots=True)
class Scene:
    """A shape that does one thing: keys of ``SHAPES``, ``COLOURS``, ``BACKGROUNDS`` and ``MOTIONS``."""

    shape: str
    colour: str
    background: str
    motion: str

    @property
    def prompt(self) -> str:
        """The prompt in the usual words."""
        return _TEMPLATES[0].format(
            colour=self.colour,
            shape=SHAPES[self.shape][0],
            motion=MOTIONS[self.motion][0],
            background=self.background,
        )

    def worded(self, random: Random) -> str:
        """Draw one of the wordings that the model was trained on."""
        return random.choice(_TEMPLATES).format(
            colour=self.colour,
            shape=random.choice(SHAPES[self.shape]),
            motion=random.choice(MOTIONS[self.motion]),
            background=self.background,
        )


def scenes() -> Iterator[Scene]:
    """List every distinguishable scene: no shape on its own colour, and no spinning ball."""
    for shape, colour, background, motion in product(SHAPES, COLOURS, BACKGROUNDS, MOTIONS):
        if colour != background and (shape, motion) != ("ball", "spins"):
            yield Scene(shape, colour, background, motion)


SCENES = tuple(scenes())

EXAMPLES = (
    Scene("ball", "red", "blue", "right"),
    Scene("star", "yellow", "black", "grows"),
    Scene("square", "green", "white", "falls"),
    Scene("ball", "purple", "gray", "bounces"),
    Scene("triangle", "blue", "white", "left"),
)
"""What it does best: a star that grows keeps its points, one that spins does not."""


def words() -> Iterator[str]:
    """Iterate over every word of every wording, some more than once."""
    blank = {"colour": "", "shape": "", "motion": "", "background": ""}
    wordings = [template.format(**blank) for template in _TEMPLATES]
    for each in (*SHAPES.values(), *MOTIONS.values()):
        wordings += each
    for text in (*wordings, *COLOURS, *BACKGROUNDS):
        yield from text.replace(",", "").split()
