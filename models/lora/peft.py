"""The settings that peft keeps beside a LoRA's tensors: its scales depend on some. Imports no torch."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite, sqrt
from pathlib import Path
from typing import Self

from models.errors import LoraFault

_METADATA = "lora_adapter_metadata"
"""The metadata key of diffusers for the settings: JSON, each name after that of the model's part."""

_BESIDE = {"adapter_model.safetensors": "adapter_config.json"}
"""Where peft itself puts the settings: a file of tensors and the file beside it."""


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """The scales of a LoRA's products. Without settings each scale is 1."""

    alpha: float | None = None
    patterns: Mapping[str, float] = field(default_factory=dict)
    """The alpha of some modules, by the end of the module's name."""
    rank_stabilised: bool = False

    @classmethod
    def of(cls, file: Path, metadata: Mapping[str, str]) -> Self:
        """Read the settings of a safetensors file with this metadata. Raises ``LoraFault``."""
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
        """Return the factor of the product of a module."""
        alpha = next((a for end, a in self.patterns.items() if f".{module}".endswith(f".{end}")), self.alpha)
        if alpha is None:
            return 1.0
        return alpha / sqrt(rank) if self.rank_stabilised else alpha / rank


def settings_beside(file: Path) -> Path | None:
    """Return the file beside ``file`` in which peft would keep its settings, None if it would not."""
    beside = _BESIDE.get(file.name)
    return None if beside is None else file.with_name(beside)


def _settings(file: Path, metadata: Mapping[str, str]) -> dict[str, object]:
    beside = settings_beside(file)
    if _METADATA in metadata:
        text, prefix = metadata[_METADATA], "transformer."
    elif beside is not None and beside.is_file():
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
