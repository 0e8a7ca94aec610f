"""The LoRAs that lie in a folder, by name. Imports no torch, so that whoever lists them needs none."""

import re
from collections.abc import Mapping
from pathlib import Path

from models.engine import Expert
from models.errors import LoraFault, WeightsError

_EXPERT = re.compile(r"[-_. ]*(?<![a-z])(high|low)[-_ ]?noise(?![a-z])", re.IGNORECASE)


class LoraFolder:
    """Safetensors files in a folder, or one folder deeper.

    ``style.safetensors`` is the LoRA ``style``; what lies in a folder ``style`` is so too. A file whose name
    says ``high_noise`` or ``low_noise`` is for that expert alone, and two that are named alike but for this
    are one LoRA: ``style_high_noise_v2`` and ``style_low_noise_v2`` are ``style_v2``.

    The folder is looked at anew each time, so a LoRA can be added or replaced while the engine runs.
    """

    def __init__(self, path: Path) -> None:
        """Raises ``WeightsError`` where there is no such folder."""
        if not path.is_dir():
            raise WeightsError(f"There is no folder of LoRAs {path}.")
        self._path = path

    def names(self) -> list[str]:
        """Names of the LoRAs that are there now, sorted."""
        return sorted(self._listing())

    def files(self, name: str) -> Mapping[Expert, Path] | None:
        """The files of a LoRA by expert, None where there is no LoRA of that name. A name is never a path.

        Raises ``LoraFault`` for a name that several files claim.
        """
        listed = self._listing().get(name)
        if listed is None:
            return None
        files = dict(listed)
        if len(files) < len(listed) or ("both" in files and len(files) > 1):
            raise LoraFault("is the name of several files, which are not one for each expert.")
        return files

    def _listing(self) -> dict[str, list[tuple[Expert, Path]]]:
        listing: dict[str, list[tuple[Expert, Path]]] = {}
        for file in sorted([*self._path.glob("*.safetensors"), *self._path.glob("*/*.safetensors")]):
            name, expert = _split(file.stem)
            if file.parent != self._path:
                name = file.parent.name
            listing.setdefault(name, []).append((expert, file))
        return listing


def _split(stem: str) -> tuple[str, Expert]:
    """The name in that of a file, and the expert."""
    found = _EXPERT.search(stem)
    if found is None:
        return stem, "both"
    name = (stem[: found.start()] + stem[found.end() :]).lstrip("-_. ")
    return name or stem, "high_noise" if found[1].lower() == "high" else "low_noise"
