"""The engine's speed settings: parsed from ``EngineSettings.options``, each with an honest default.

A setting that cannot work on a device, with a model or without a library is refused when the engine loads;
none is ever ignored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any, Literal, Self, get_args

from models.errors import TuningError

Attention = Literal["auto", "sdpa", "cudnn", "flash2", "flash3", "sage", "xformers"]
Offload = Literal["none", "model", "group"]

_CHOICES: Mapping[str, tuple[str, ...]] = {"attention": get_args(Attention), "offload": get_args(Offload)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How a loaded model is run. The defaults change no number."""

    attention: Attention = "auto"
    """The kernel of self-attention; ``auto`` measures those that are installed, once, at start. ``sage``
    computes with 8 bits."""
    compile: bool = False
    """Compile the transformer's block with torch.compile, for any size, before the engine is ready."""
    fp8: bool = False
    """Transformer linear layers in 8-bit floats with a scale per row."""
    cache_threshold: float = 0.0
    """Skip the rest of a step whose first block changed by less than this share since the last whole step;
    0 never does."""
    offload: Offload = "none"
    """``model``: each part is on the device only while it works. ``group``: the transformer's blocks, too,
    each a little ahead of its turn."""
    vae_tiling: bool = False
    """Decode overlapping tiles of the picture one after the other: less memory, more time."""
    tile_when_full: bool = False
    """Decode in such tiles only where memory runs out on the whole picture."""

    @classmethod
    def from_options(cls, options: Mapping[str, object]) -> Self:
        """Raises ``TuningError`` naming the option and what is allowed."""
        known = {field.name: field.default for field in fields(cls)}
        for name, value in options.items():
            if name not in known:
                raise TuningError(f"{name} is not an engine option; there are {', '.join(known)}.")
            _check(name, value, known[name])
        chosen: dict[str, Any] = dict(options)
        return cls(**chosen)


def _check(name: str, value: object, default: object) -> None:
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise TuningError(f"{name} must be one of {', '.join(_CHOICES[name])}, not {value!r}.")
    elif isinstance(default, bool):
        if not isinstance(value, bool):
            raise TuningError(f"{name} must be true or false, not {value!r}.")
    elif (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value < 1
        or not isfinite(value)
    ):
        raise TuningError(f"{name} must be a number, at least 0 and below 1, not {value!r}.")
