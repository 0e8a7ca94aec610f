"""Groups of LoRA files that are one LoRA: a file by itself, or one for each expert. Imports no torch."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from models.engine import Expert
from models.lora.expert_marks import Certainty, Mark, Side, marks_in, skeleton, without


@dataclass(frozen=True, slots=True)
class LoraGroup:
    """The files of one LoRA by the expert each is for. Files have the names that ``lora_groups`` was given.

    ``name`` is the file's, or what the two have in common. ``remark`` ends a sentence that begins with the
    LoRA's name: it tells which expert has no file, and what was guessed.
    """

    name: str
    files: Mapping[Expert, str]
    remark: str | None = None


def lora_groups(names: Iterable[str], *, two_experts: bool) -> list[LoraGroup]:
    """Return the LoRAs that files of these names make up. Names have no suffix and may have folders.

    For a model with one expert, ``high`` and ``low`` mean an expert only beside ``noise``.
    """
    left = dict.fromkeys(sorted(names))
    groups: list[LoraGroup] = []
    for epochs in (True, False) if two_experts else (True,):
        for least in sorted(Certainty, reverse=True) if two_experts else (Certainty.NOISE,):
            for high, low, name in _pairs(left, least, epochs=epochs):
                if high not in left or low not in left:
                    continue
                del left[high], left[low]
                remark = None if epochs else f"is made of {high} and {low}, two files of different epochs."
                groups.append(LoraGroup(name, {"high_noise": high, "low_noise": low}, remark))
    return groups + [_alone(name, two_experts=two_experts) for name in left]


def half_of(name: str) -> Side | None:
    """Return the expert that a file by itself is for, by its name; None where it is for both."""
    (expert,) = _alone(name, two_experts=True).files
    return None if expert == "both" else expert


def _pairs(names: Iterable[str], least: Certainty, *, epochs: bool) -> Iterator[tuple[str, str, str]]:
    """Yield the names of each pair, high first, and what they have in common."""
    found: dict[str, dict[Side, dict[str, list[Mark]]]] = {}
    for name in names:
        for marks in _choices([mark for mark in marks_in(name) if mark.certainty >= least]):
            of_skeleton = found.setdefault(skeleton(name, marks, epochs=epochs), {})
            of_skeleton.setdefault(marks[0].side, {})[name] = marks
    for sides in found.values():
        high, low = sides.get("high_noise", {}), sides.get("low_noise", {})
        if len(high) == len(low) == 1:
            ((high_name, marks),) = high.items()
            yield high_name, next(iter(low)), without(high_name, marks)


def _choices(marks: list[Mark]) -> Iterator[list[Mark]]:
    """Yield what may be the mark of a name: each of its marks, and all of them where they say the same."""
    yield from ([mark] for mark in marks)
    if len(marks) > 1 and len({mark.side for mark in marks}) == 1:
        yield marks


def _alone(name: str, *, two_experts: bool) -> LoraGroup:
    marks = marks_in(name)
    most = max((mark.certainty for mark in marks), default=None)
    surest = [mark for mark in marks if mark.certainty == most]
    sides = {mark.side for mark in surest}
    if most is None or (most < Certainty.NOISE and not two_experts):
        return LoraGroup(name, {"both": name})
    if len(sides) > 1:
        remark = "says both high and low in its name; both experts have it." if two_experts else None
        return LoraGroup(name, {"both": name}, remark)
    (side,) = sides
    if most is Certainty.LETTER:
        remark = (
            f"may be for the {side} expert alone by its name; it has no other half, so both experts have it."
        )
        return LoraGroup(name, {"both": name}, remark)
    shown = without(name, surest) if most is Certainty.NOISE else name
    other = "low_noise" if side == "high_noise" else "high_noise"
    remark = f"has a file for the {side} expert alone, by its name; the {other} expert runs without it."
    return LoraGroup(shown, {side: name}, remark if two_experts else None)
