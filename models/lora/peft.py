"""The settings that peft keeps beside a LoRA's tensors, of which its strength depends on some."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite, sqrt
from pathlib import Path
from typing import Self

from models.errors import LoraFault

_METADATA = "lora_adapter_metadata"
"""Where diffusers puts them: within the file, as JSON, each name after that of the model's part."""

_BESIDE = {"adapter_model.safetensors": "adapter_config.json"}
"""Where peft itself puts them: a file and the one beside it."""


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """How strongly each product of a LoRA acts. Without settings each acts as it is."""

    alpha: float | None = None
    patterns: Mapping[str, float] = field(default_factory=dict)
    """The alpha of some modules, by the end of the module's name."""
    rank_stabilised: bool = False

    @classmethod
    def of(cls, file: Path, metadata: Mapping[str, str]) -> Self:
        """Those of a safetensors file with this metadata. Raises ``LoraFault``."""
        try:
            settings = _settings(file, metadata)
        except (OSError, ValueError) as error:
            raise LoraFault("has settings of peft that cannot be read.") from error
        if settings.get("use_dora"):
            raise LoraFault("is a DoRA, which is not supported.")
        patterns = settings.get("alpha_pattern") or {}
        alpha = settings.get("lora_alpha")
        if not isinstance(patterns, dict):
            raise LoraFault("has settings of peft that cannot be read.")
        return cls(
            alpha=None if alpha is None else _number(alpha),
            patterns={_literal(pattern): _number(value) for pattern, value in patterns.items()},
            rank_stabilised=bool(settings.get("use_rslora")),
        )

    def scale(self, module: str, rank: int) -> float:
        """What the product of a module is multiplied by."""
        alpha = next((a for end, a in self.patterns.items() if f".{module}".endswith(f".{end}")), self.alpha)
        if alpha is None:
            return 1.0
        return alpha / sqrt(rank) if self.rank_stabilised else alpha / rank


def _settings(file: Path, metadata: Mapping[str, str]) -> dict[str, object]:
    beside = file.with_name(_BESIDE.get(file.name, file.name))
    if _METADATA in metadata:
        text, prefix = metadata[_METADATA], "transformer."
    elif beside != file and beside.is_file():
        text, prefix = beside.read_text(encoding="utf-8"), ""
    else:
        return {}
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError
    return {name.removeprefix(prefix): value for name, value in content.items()}


def _literal(pattern: str) -> str:
    # peft takes a regular expression; what it writes itself is the end of a name, or a whole one after a ^
    if not re.fullmatch(r"\^?[\w.]+", pattern):
        raise LoraFault(f"has an alpha for {pattern[:80]!r} in its settings of peft, which is no name.")
    return pattern.removeprefix("^")


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not isfinite(value):
        raise LoraFault("has settings of peft in which an alpha is not a number.")
    return float(value)
