"""Sources of a model's weights: a local folder or a model on the Hugging Face hub. Imports no torch."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

_HUB_MODEL = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([A-Za-z0-9][\w./-]*))?", re.ASCII)

_DEFAULT = "main"


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model on the Hugging Face hub, at a commit, a tag or a branch; only a commit never changes."""

    id: str
    revision: str = _DEFAULT

    def __str__(self) -> str:
        """Format the model as ``weights_source`` parses it."""
        return self.id if self.revision == _DEFAULT else f"{self.id}@{self.revision}"


WeightsSource: TypeAlias = Path | HubModel
"""A local folder in the diffusers layout, or a hub model in that layout."""


def weights_source(text: str, base: Path = Path()) -> WeightsSource:
    """Parse an operator's setting: a folder, ``org/name``, or ``org/name@revision``.

    A folder that exists in ``base`` takes precedence over a hub model. Otherwise the form decides:
    ``./org/name`` is always a folder. Relative folders stay relative.
    """
    named = _HUB_MODEL.fullmatch(text)
    if named is None or (base / text).is_dir():
        return Path(text).expanduser()
    return HubModel(named[1], named[2] or _DEFAULT)
