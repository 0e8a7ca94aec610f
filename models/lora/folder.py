"""The LoRAs of a folder by name. Imports no torch, so that whoever lists them needs none."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from models.engine import Expert
from models.errors import LoraFault, WeightsError
from models.lora.pairing import LoraGroup, lora_groups

_SUFFIX = ".safetensors"

_SEVERAL = "is the name of several files, which are not one for each expert."


class LoraFolder:
    """Safetensors files in a folder, or up to two folders deeper, as LoRAs with names.

    ``style.safetensors`` is the LoRA ``style``; so is the only LoRA in a folder ``style``, while several in
    one folder go by the names of their files. A file whose name says ``high_noise`` or ``low_noise`` is for
    that expert alone. In a model with two experts two files that are named alike but for high and low, in any
    spelling (``models.lora.expert_marks``), are one LoRA: ``style_HIGH_v2`` and ``style_LOW_v2`` are
    ``style_v2``.

    The folder is looked at anew each time, so a LoRA can be added or replaced while the engine runs.
    """

    def __init__(self, path: Path, *, two_experts: bool = True) -> None:
        """Raises ``WeightsError`` where there is no such folder."""
        if not path.is_dir():
            raise WeightsError(f"There is no folder of LoRAs {path}.")
        self._path = path
        self._two_experts = two_experts

    def names(self) -> list[str]:
        """Return the names of the LoRAs that are there now, sorted."""
        return sorted(self.listing())

    def remarks(self) -> dict[str, str]:
        """Return what there is to say of some LoRAs, by name: a half that is missing, a name that is unclear.

        Each ends a sentence that begins with the LoRA's name.
        """
        remarks = {
            name: groups[0].remark if len(groups) == 1 else _SEVERAL
            for name, groups in self.listing().items()
        }
        return {name: remark for name, remark in remarks.items() if remark is not None}

    def files(self, name: str) -> Mapping[Expert, Path] | None:
        """Return the files of a LoRA by expert, None where no LoRA has that name. A name is never a path.

        Raises ``LoraFault`` for a name that several LoRAs have.
        """
        groups = self.listing().get(name)
        return None if groups is None else self.files_of(groups)

    def files_of(self, groups: Sequence[LoraGroup]) -> Mapping[Expert, Path]:
        """Return the files of the groups that have one name. Raises ``LoraFault`` where they are several."""
        if len(groups) > 1:
            raise LoraFault(_SEVERAL)
        return {expert: self._path / f"{file}{_SUFFIX}" for expert, file in groups[0].files.items()}

    def listing(self) -> dict[str, list[LoraGroup]]:
        """Return the groups of files that are there now by the LoRA's name, mostly one for each."""
        found = [file for depth in ("", "*/", "*/*/") for file in self._path.glob(f"{depth}*{_SUFFIX}")]
        relative = [file.relative_to(self._path) for file in found]
        visible = [file for file in relative if not any(part.startswith(".") for part in file.parts)]
        names = [file.as_posix().removesuffix(_SUFFIX) for file in visible]
        groups = lora_groups(names, two_experts=self._two_experts)
        in_folder = Counter(_folders(group) for group in groups)
        listing: dict[str, list[LoraGroup]] = {}
        for group in groups:
            folders, stem = _folders(group), group.name.rpartition("/")[2]
            if folders and (in_folder[folders] == 1 or not stem):
                stem = folders[-1]
            listing.setdefault(stem or "_".join(group.files.values()), []).append(group)
        return listing


def _folders(group: LoraGroup) -> tuple[str, ...]:
    """Return the folders that a LoRA lies in, without those whose name says nothing but an expert."""
    return tuple(folder for folder in group.name.split("/")[:-1] if folder)
