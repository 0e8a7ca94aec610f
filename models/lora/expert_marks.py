"""The marks in file names that say which expert of a two-expert model a LoRA is for. Imports no torch."""

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, TypeAlias

Side: TypeAlias = Literal["high_noise", "low_noise"]


class Certainty(IntEnum):
    """How surely a mark means an expert: it says noise, is the word alone, or is a letter or two."""

    LETTER = 0
    WORD = 1
    NOISE = 2


_BEGINS = r"(?<![A-Za-z])"
_BEGINS_WORD = r"(?:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z]))"
"""A word begins after what is no letter, or with a capital after a small letter, as in ``BounceHigh``."""

_PATTERNS: dict[Certainty, tuple[str, ...]] = {
    Certainty.NOISE: (
        rf"{_BEGINS_WORD}(?i:(?P<high>high|hi|h)|(?P<low>low|lo|l))[-_. ]*(?i:nois[ey])(?![a-z])",
        rf"{_BEGINS_WORD}(?i:noise)[-_. ]*(?i:(?P<high>high)|(?P<low>low))(?![a-z])",
        r"(?:(?P<high>高)|(?P<low>低))(?:噪[声音]?|ノイズ)",
    ),
    Certainty.WORD: (
        rf"{_BEGINS_WORD}(?:(?P<high>[Hh]igh|HIGH)|(?P<low>[Ll]ow|LOW))(?![a-z])",
        rf"{_BEGINS}(?i:(?P<high>hn)|(?P<low>ln))(?![A-Za-z])",
    ),
    Certainty.LETTER: (
        rf"{_BEGINS}(?i:(?P<high>hi)|(?P<low>lo))(?![A-Za-z])",
        r"(?:(?<![A-Za-z0-9])|(?<=[a-z])(?=[A-Z]))(?i:(?P<high>h)|(?P<low>l))(?![A-Za-z0-9])",
    ),
}
_COMPILED = [(certainty, re.compile(text)) for certainty, texts in _PATTERNS.items() for text in texts]

_SEPARATORS = "-_. "
_EPOCH = re.compile(
    r"(?i:(?<![a-z])(?:epoch|epoc|ep|e|steps?|s)[-_ ]?\d+|\d+[-_ ]?(?:epochs?|epocs?|ep|steps)"
    r"|(?<=[-_])0\d{4,})(?![A-Za-z0-9])"
)
"""A number of epochs or steps in a trainer's name of a checkpoint."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place ``begin`` … ``end`` in a name that may say which expert the file is for."""

    side: Side
    certainty: Certainty
    begin: int
    end: int


def marks_in(name: str) -> list[Mark]:
    """Return the marks of a name in order. Of two that overlap the more certain counts."""
    found: list[Mark] = []
    for certainty, pattern in _COMPILED:
        for match in pattern.finditer(name):
            if all(match.end() <= mark.begin or mark.end <= match.start() for mark in found):
                side: Side = "high_noise" if match["high"] else "low_noise"
                found.append(Mark(side, certainty, match.start(), match.end()))
    return sorted(found, key=lambda mark: mark.begin)


def without(name: str, marks: list[Mark]) -> str:
    """Return the name without some of its marks and the separators before them."""
    for mark in reversed(marks):
        name = name[: mark.begin].rstrip(_SEPARATORS) + name[mark.end :]
    return "/".join(part.lstrip(_SEPARATORS) for part in name.split("/"))


def skeleton(name: str, marks: list[Mark], *, epochs: bool) -> str:
    """Return what the names of a pair have in common: a placeholder for each mark, separators and case alike.

    With ``epochs`` the numbers of epochs count too; without, they may differ.
    """
    for mark in reversed(marks):
        name = name[: mark.begin].rstrip(_SEPARATORS) + "\0" + name[mark.end :].lstrip(_SEPARATORS)
    if not epochs:
        name = _EPOCH.sub("\1", name)
    return re.sub(r"[-_. ]+", "-", name.casefold())
