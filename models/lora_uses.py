"""Validation of the LoRAs that a request names, before any of them is looked for. Imports no torch."""

from collections.abc import Sequence
from math import isfinite

from models.errors import InvalidRequest
from models.limits import MAX_LORA_STRENGTH, MAX_LORAS
from models.video_spec import LoraUse


def check_uses(uses: Sequence[LoraUse], *, two_experts: bool) -> None:
    """Raise ``InvalidRequest`` for uses that no engine takes; its field names the entry: ``loras[1].name``.

    ``two_experts``: whether the model has a low-noise expert, which alone takes a strength of its own.
    """
    if len(uses) > MAX_LORAS:
        raise InvalidRequest(
            f"{len(uses)} LoRAs are too many: a request has at most {MAX_LORAS}.", field="loras"
        )
    names: set[str] = set()
    for entry, use in enumerate(uses):
        if use.name in names:
            raise refusal(use, entry, "name", "is there twice; name it once, with one strength.")
        names.add(use.name)
        for part, strength in (("strength", use.strength), ("strength_low", use.strength_low)):
            if strength is not None and not in_bounds(strength):
                raise refusal(use, entry, part, strength_reason(strength))
        if use.strength_low is not None and not two_experts:
            raise refusal(
                use, entry, "strength_low", "has a strength for a low-noise expert, and this model has none."
            )


def in_bounds(strength: float) -> bool:
    """Return whether a LoRA may act with this strength."""
    return isfinite(strength) and abs(strength) <= MAX_LORA_STRENGTH


def strength_reason(strength: float) -> str:
    """Return why a strength is refused, as the end of a sentence that begins with the LoRA."""
    most = f"{MAX_LORA_STRENGTH:g}"
    return f"must have a strength of -{most} … {most}, not {strength}."


def refusal(
    use: LoraUse, entry: int, part: str, reason: str, kind: type[InvalidRequest] = InvalidRequest
) -> InvalidRequest:
    """Return the refusal of a part of one of a request's LoRAs; ``reason`` ends a sentence."""
    return kind(f"The LoRA {use.name[:100]!r} {reason}", field=f"loras[{entry}].{part}")
