"""The LoRA cache of an engine: LoRAs found by name, kept on the device, put on a run's transformers."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

import torch

from models.engine import EngineSettings, Expert
from models.errors import InvalidRequest, LoraFault, LoraMissing, LoraRemoved, WeightsError
from models.lora.adapters import Adapters
from models.lora.catalogue import NOT_WHOLE, no_such_expert, too_large
from models.lora.contents import left_out_sentence
from models.lora.file import Lora, read_lora
from models.lora.folder import LoraFolder
from models.lora.merging import Weighted, fuse
from models.lora.originals import Room
from models.lora.pairing import half_of
from models.lora_uses import in_bounds, refusal, strength_reason
from models.memory.check import free_bytes
from models.video_spec import LoraUse
from models.weights.arrival import Arrival

_LOGGER = logging.getLogger(__name__)

_T = TypeVar("_T")

_NAMES_SHOWN = 20

ChosenLoras: TypeAlias = tuple[tuple[Weighted, ...], ...]
"""The LoRAs that are on each of the engine's transformers in a run."""


def load_loras(
    settings: EngineSettings,
    arrivals: Sequence[Arrival],
    *,
    merges: bool = True,
    rest: Callable[[], None] | None = None,
) -> "LoraCache":
    """Have the fused LoRAs added to the transformers as they arrive; return the cache for the others.

    ``arrivals``: of one, or of the high-noise and the low-noise expert; ``merges``: see ``Adapters``;
    ``rest``: see ``LoraCache``. Logs the tensors that have no place in them. Raises ``WeightsError``.
    """
    adapters = [Adapters(arrival, merges=merges) for arrival in arrivals]
    for fused in settings.fused_loras:
        try:
            if not in_bounds(fused.strength):
                raise LoraFault(strength_reason(fused.strength))
            if fused.expert == "both" and len(adapters) > 1 and (half := half_of(fused.file.stem)):
                _LOGGER.warning(
                    "The LoRA %s is fused into both experts, but its name says %s", fused.file, half
                )
            lora = read_lora(fused.file, _of_expert(adapters, fused.expert)[0].shapes)
            _tell_left_out(fused.file, lora)
            for arrival in _of_expert(arrivals, fused.expert):
                fuse(lora, fused.strength, arrival)
        except LoraFault as error:
            raise WeightsError(f"The LoRA {fused.file} {error}") from error
    folder = None
    if settings.lora_folder is not None:
        folder = LoraFolder(settings.lora_folder, two_experts=len(adapters) > 1)
    return LoraCache(folder, adapters, arrivals[0].device, settings.lora_cache_bytes, rest)


class LoraCache:
    """An LRU cache of the LoRAs that requests may name.

    A LoRA is read when a request first names it and stays on the device; the least recently used is evicted
    first, so that all of them stay within ``cache_bytes``. A run holds its own for as long as it lives.
    """

    def __init__(
        self,
        folder: LoraFolder | None = None,
        adapters: Sequence[Adapters] = (),
        device: torch.device | None = None,
        cache_bytes: int = 0,
        rest: Callable[[], None] | None = None,
    ) -> None:
        """``rest``: brings the transformers' weights to where they may be changed in place; None where they
        always are there.
        """
        self._folder = folder
        self._adapters = adapters
        self._device = device or torch.device("cpu")
        self._cache_bytes = cache_bytes
        self._rest = rest or (lambda: None)
        # by file, and by the time and size of what was in it
        self._cached: OrderedDict[tuple[Path, int, int], Lora] = OrderedDict()
        self._told: set[str] = set()
        """Names of LoRAs whose remarks are in the log."""
        self.evictions = 0
        """How many LoRAs were dropped for others."""
        self._on: ChosenLoras | None = ((),) * len(adapters)
        """What the transformers have on; None where that is not certain."""

    @property
    def cached(self) -> Mapping[Path, Lora]:
        """The LoRAs on the device by their files, the least recently used first."""
        return {file: lora for (file, _, _), lora in self._cached.items()}

    def choose(self, uses: Sequence[LoraUse]) -> ChosenLoras:
        """Return the LoRAs of a request, ready to be put on. Raises ``InvalidRequest``, its field as
        ``loras[1].name``; ``LoraRemoved`` for one that is not in the folder.
        """
        chosen: list[list[Weighted]] = [[] for _ in self._adapters]
        for entry, use in enumerate(uses):
            try:
                self._choose(use, chosen)
            except LoraFault as error:
                kind = LoraRemoved if isinstance(error, LoraMissing) else InvalidRequest
                raise refusal(use, entry, "name", str(error), kind) from error
            except (WeightsError, OSError) as error:  # these may name a folder of the server
                raise refusal(use, entry, "name", NOT_WHOLE) from error
        return tuple(map(tuple, chosen))

    @property
    def movable_bytes(self) -> int:
        """Bytes of the device's memory that ``make_room`` can give to a run."""
        return sum(adapters.originals.movable_bytes for adapters in self._adapters)

    def put_on(self, chosen: ChosenLoras, needed_bytes: int) -> None:
        """Put these LoRAs on the transformers in place of others, for a run that needs so much memory.

        Costs nothing where they are on already. Raises ``OutOfMemory``. What an error leaves half done, the
        next call puts right.
        """
        if chosen == self._on:
            return
        room = Room(free_bytes(self._device) - needed_bytes)
        self._rest()
        self._on = None
        for adapters, loras in zip(self._adapters, chosen, strict=True):
            adapters.put_on(loras, room)
        self._on = chosen

    def make_room(self, needed_bytes: int) -> None:
        """Make room for a run that begins: originals leave the device as far as it needs their memory.

        Raises ``OutOfMemory`` if the host has none for them.
        """
        if self.movable_bytes:
            room = Room(free_bytes(self._device) - needed_bytes)
            for adapters in self._adapters:
                adapters.originals.make_room(room)

    def _choose(self, use: LoraUse, chosen: list[list[Weighted]]) -> None:
        acting = list(zip(chosen, use.strengths, strict=False))
        for expert, file in self._files(use.name).items():
            adapters = _of_expert(self._adapters, expert)
            lora = self._fitted(file, adapters[0])  # two experts differ in their numbers alone
            for loras, strength in _of_expert(acting, expert):
                if strength:
                    loras.append((lora, strength))
        if sum({lora: lora.size_bytes for loras in chosen for lora, _ in loras}.values()) > self._cache_bytes:
            raise too_large(self._cache_bytes)

    def _files(self, name: str) -> Mapping[Expert, Path]:
        files = self._folder.files(name) if self._folder is not None else None
        if files is not None:
            self._tell_remark(name)
            return files
        names = self._folder.names() if self._folder is not None else []
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        there = ", ".join(names[:_NAMES_SHOWN]) + more
        raise LoraMissing(f"does not exist; there {f'are {there}' if names else 'is none'}.")

    def _tell_remark(self, name: str) -> None:
        remark = self._folder.remarks().get(name) if self._folder is not None else None
        if remark is not None and name not in self._told:
            _LOGGER.warning("The LoRA %s %s", name, remark)
            self._told.add(name)

    def _fitted(self, file: Path, adapters: Adapters) -> Lora:
        status = file.stat()
        version = file, status.st_mtime_ns, status.st_size
        if version not in self._cached:
            self._cached[version] = adapters.fitted(read_lora(file, adapters.shapes))
            _tell_left_out(file, self._cached[version])
        self._cached.move_to_end(version)
        fitted = self._cached[version]
        while sum(lora.size_bytes for lora in self._cached.values()) > self._cache_bytes:
            self._cached.popitem(last=False)
            self.evictions += 1
        return fitted


def _tell_left_out(file: Path, lora: Lora) -> None:
    if lora.left_out:
        _LOGGER.warning("The LoRA %s %s", file, left_out_sentence(lora.left_out, lora.num_tensors))


def _of_expert(both: Sequence[_T], expert: Expert) -> Sequence[_T]:
    """Return the items of an expert, out of one or two. Raises ``LoraFault`` for one that the model lacks."""
    if expert == "both":
        return both
    if len(both) == 1:
        raise no_such_expert(expert)
    return both[:1] if expert == "high_noise" else both[1:]
