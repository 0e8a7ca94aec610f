"""The LoRAs of a folder, checked against a variant before any run. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from models.engine import Expert
from models.errors import LoraFault, WeightsError
from models.lora.contents import LoraContents, left_out_sentence
from models.lora.folder import LoraFolder
from models.lora.pairing import LoraGroup
from models.lora.peft import settings_beside
from models.variants import Variant
from models.weights.transformer_shapes import transformer_shapes

_Version: TypeAlias = tuple[tuple[int, int] | None, ...]
"""Modification time and size of a LoRA file, and of the settings beside it."""

_NUMBER_BYTES = 2
"""Bytes that a number of a LoRA takes at least on the device: those of a file with fewer are widened."""

NOT_WHOLE = "is not a whole safetensors file."


class LoraCatalogue:
    """The LoRAs that requests to a model of ``variant`` may name, with what there is to say of each.

    Only headers are read, and each once for as long as its file stays as it is.
    """

    def __init__(self, path: Path, variant: Variant, *, cache_bytes: int | None = None) -> None:
        """``cache_bytes``: see ``EngineSettings.lora_cache_bytes``, None for no limit.

        Raises ``WeightsError`` where there is no such folder.
        """
        self._variant = variant
        self._cache_bytes = cache_bytes
        self._folder = LoraFolder(path, two_experts=variant.boundary is not None)

    def names(self) -> list[str]:
        """Return the names of the LoRAs that are there now, sorted."""
        return self._folder.names()

    def notes(self, name: str) -> list[str]:
        """Return what is left out or guessed when a request names a LoRA of the folder, as whole sentences.

        Raises ``LoraFault`` for a LoRA that cannot be applied to the variant.
        """
        return self._notes(name, self._folder.listing().get(name, []))

    def least_bytes(self, name: str) -> int:
        """Return the bytes that a LoRA of the folder takes at least on the device.

        Raises ``LoraFault`` for a LoRA that cannot be applied to the variant.
        """
        return _least_bytes(self._fittings(self._folder.listing().get(name, [])))

    def _notes(self, name: str, groups: Sequence[LoraGroup]) -> list[str]:
        fittings = self._fittings(groups)
        if self._cache_bytes is not None and _least_bytes(fittings) > self._cache_bytes:
            raise too_large(self._cache_bytes)
        said = [*(group.remark for group in groups), *(fitting.left_out for fitting in fittings)]
        return [f"The LoRA {name!r} {remark}" for remark in dict.fromkeys(said) if remark is not None]

    def _fittings(self, groups: Sequence[LoraGroup]) -> list["_Fitting"]:
        """Return what of each file fits. Raises ``LoraFault``."""
        if not groups:
            return []
        fittings = []
        for expert, file in self._folder.files_of(groups).items():
            if expert != "both" and self._variant.boundary is None:
                raise no_such_expert(expert)
            fittings.append(_fitting(file, _version(file), self._variant))
        return fittings

    def remarks(self) -> dict[str, str]:
        """Return the notes of those LoRAs that have any, by name, or why a request with one is refused."""
        said = {}
        for name, groups in self._folder.listing().items():
            try:
                said[name] = " ".join(self._notes(name, groups))
            except LoraFault as fault:
                said[name] = f"The LoRA {name!r} {fault}"
        return {name: remark for name, remark in said.items() if remark}


def no_such_expert(expert: Expert) -> LoraFault:
    """Return the fault of a LoRA that is for an expert of its own, in a model that has one for all noise."""
    return LoraFault(f"is for the {expert} expert; this model has one for all noise.")


def fault_of(file: Path, variant: Variant) -> LoraFault | None:
    """Return why a LoRA file cannot be applied to a variant, None if it can."""
    verdict = _verdict(file, _version(file), variant)
    return verdict if isinstance(verdict, LoraFault) else None


def too_large(cache_bytes: int) -> LoraFault:
    """Return the fault of LoRAs that do not go into the engine's cache together."""
    return LoraFault(f"is too much: a request's LoRAs may have {cache_bytes} bytes together.")


@dataclass(frozen=True, slots=True)
class _Fitting:
    """What of a file is applied; ``left_out`` ends a sentence, None where nothing is."""

    left_out: str | None
    num_parameters: int


def _least_bytes(fittings: Sequence[_Fitting]) -> int:
    return _NUMBER_BYTES * sum(fitting.num_parameters for fitting in fittings)


def _fitting(file: Path, version: _Version, variant: Variant) -> _Fitting:
    """Return what of a file fits a variant. Raises ``LoraFault``."""
    verdict = _verdict(file, version, variant)
    if isinstance(verdict, LoraFault):
        raise LoraFault(*verdict.args)  # a new one: a fault that is raised again grows its traceback
    return verdict


@lru_cache(maxsize=4096)
def _verdict(file: Path, version: _Version, variant: Variant) -> _Fitting | LoraFault:
    del version  # only tells one content of the file from another
    try:
        contents = LoraContents.read(file).fitting(transformer_shapes(variant))
    except LoraFault as fault:
        return LoraFault(*fault.args)
    except (WeightsError, OSError):  # these may name a folder of the server
        return LoraFault(NOT_WHOLE)
    sentence = left_out_sentence(contents.left_out, contents.num_tensors) if contents.left_out else None
    return _Fitting(sentence, contents.num_parameters)


def _version(file: Path) -> _Version:
    beside = settings_beside(file)
    return _status(file), None if beside is None else _status(beside)


def _status(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
