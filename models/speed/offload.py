"""Offloading, for models larger than the device: weights stay in host memory and are copied to the device for
use.

A run never changes weights, so nothing is copied back: offloading drops the device's copy. LoRAs are merged
into the host's copy, between runs.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from models.errors import TuningError
from models.memory.host_memory import HostMemory, placed
from models.tuning import Tuning
from models.weights.arrival import Arrival

_ALIGNMENT = 256
"""Bytes to a multiple of which each tensor begins, as torch's own allocations do at least."""
_BLOCKS_THERE = 3
"""Most blocks of a streamed transformer on the device."""


def check_offload(tuning: Tuning, device: torch.device, *, two_experts: bool = False) -> None:
    """Raise ``TuningError`` if offloading is set for a CPU, for experts that a model does not have, or
    together with a setting it excludes.
    """
    if tuning.offload == "none":
        return
    if tuning.offload == "experts" and not two_experts:
        raise TuningError("offload experts is for a model with two: this one has a single transformer.")
    if device.type != "cuda":
        raise TuningError(
            f"offload must be none on a {device.type} engine: it is for the memory of CUDA devices."
        )
    for name, wanted in (("compile", tuning.compile), ("fp8", tuning.fp8)):
        if wanted:
            raise TuningError(f"offload {tuning.offload} and {name} do not go together: set one of them.")


class HostWeights:
    """Tensors of a model whose data is the host's copy or, while fetched, the device's copy.

    Either copy is one piece of memory, so that a fetch is one transfer.
    """

    def __init__(
        self, tensors: Iterable[Tensor], device: torch.device, arrival: Arrival | None = None
    ) -> None:
        """``arrival``: of the model, where the tensors may still be as its files hold them."""
        self._device = device
        self._tensors = list(tensors)
        forms = self._tensors
        if arrival is not None:
            forms = [
                torch.empty_like(tensor, dtype=arrival.dtype_of(tensor), device="meta")
                for tensor in self._tensors
            ]
        sizes = [-(-form.nbytes // _ALIGNMENT) * _ALIGNMENT for form in forms]
        self._starts = [0, *accumulate(sizes)]
        self._memory = HostMemory(self._starts.pop(), device)
        self._host = self._memory.bytes
        self.fetched = False
        # one by one, so that memory never holds a second copy of all of them
        for tensor, form, start in zip(self._tensors, forms, self._starts, strict=True):
            place = placed(self._host, start, form)
            if arrival is None:
                place.copy_(tensor.data)
            else:
                arrival.lay(tensor, place)
            tensor.data = place

    @property
    def size_bytes(self) -> int:
        """Bytes of a copy."""
        return self._host.nbytes

    def fetch(self) -> None:
        """Copy the tensors to the device. On CUDA, from pinned memory, the copy is asynchronous."""
        with torch.inference_mode(False):  # a parameter cannot hold an inference tensor
            copy = torch.empty_like(self._host, device=self._device).copy_(self._host, non_blocking=True)
            self._place(copy)
        self.fetched = True

    def release(self) -> None:
        """Drop the device's copy. Work on it must be complete, or queued on the stream that copied it."""
        with torch.inference_mode(False):
            self._place(self._host)
        self.fetched = False

    def _place(self, memory: Tensor) -> None:
        for tensor, start in zip(self._tensors, self._starts, strict=True):
            tensor.data = placed(memory, start, tensor)


class Offloader:
    """Keeps one part of a model on the device at a time, and offloads it when another part is needed."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._loaded: HostWeights | None = None
        self._sizes: dict[nn.Module, int] = {}
        """Most bytes of each part on the device."""

    def enter(self, module: nn.Module, size_bytes: int) -> None:
        """Note that a part takes its turns on the device, and its most bytes there."""
        self._sizes[module] = size_bytes

    def growth(self, module: nn.Module) -> int:
        """Return the bytes by which the weights on the device will have grown when ``module`` is at work,
        below 0 if they shrink. If it takes no turns, any part that does may be there beside it.
        """
        size = self._sizes.get(module, max(self._sizes.values(), default=0))
        return size - (0 if self._loaded is None else self._loaded.size_bytes)

    def load(self, weights: HostWeights) -> None:
        """Load ``weights`` to the device and offload the others. Does nothing if they are there already."""
        if self._loaded is weights:
            return
        if self._loaded is not None:
            self.rest()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()  # parts differ in size: cached pieces of one would not fit another
        try:
            weights.fetch()
        except BaseException:
            weights.release()  # drop the tensors that were copied before memory ran out
            raise
        self._loaded = weights

    def rest(self) -> None:
        """Offload the part that is loaded: all weights are the host's, and may be changed in place."""
        if self._loaded is not None:
            self._loaded.release()
            self._loaded = None

    def add(self, module: nn.Module) -> None:
        """Register a hook that moves ``module`` and its tensor arguments to the device at each call."""
        weights = HostWeights(_tensors(module), self.device)
        self.enter(module, weights.size_bytes)

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            self.load(weights)
            return tuple(map(self._moved, args)), {name: self._moved(value) for name, value in kwargs.items()}

        module.register_forward_pre_hook(before, with_kwargs=True)

    def _moved(self, value: object) -> object:
        return value.to(self.device) if isinstance(value, Tensor) else value


class WholeTransformer:
    """Implements ``BlockWeights``: a transformer that is loaded and offloaded as a whole."""

    def __init__(self, transformer: nn.Module, offloader: Offloader, arrival: Arrival | None = None) -> None:
        """``arrival``: see ``HostWeights``."""
        self.device = offloader.device
        self._offloader = offloader
        self._weights = HostWeights(_tensors(transformer), offloader.device, arrival)
        offloader.enter(transformer, self._weights.size_bytes)

    def ready(self) -> None:
        """Bring the transformer to the device."""
        self._offloader.load(self._weights)

    @contextmanager
    def each(self, blocks: Sequence[Any]) -> Iterator[Iterator[Any]]:
        """Iterate over the blocks, which are all on the device."""
        yield iter(blocks)


class StreamedBlocks:
    """Implements ``BlockWeights``: a transformer whose blocks are prefetched one ahead of their use.

    While a block computes, the next one is copied. The block before may still compute, since the device runs
    asynchronously to the host: so the device holds at most three blocks.
    """

    def __init__(
        self,
        transformer: nn.Module,
        blocks: Sequence[nn.Module],
        offloader: Offloader,
        arrival: Arrival | None = None,
    ) -> None:
        """``arrival``: see ``HostWeights``."""
        self.device = offloader.device
        self._offloader = offloader
        self.blocks = {block: HostWeights(_tensors(block), self.device, arrival) for block in blocks}
        in_blocks = {id(tensor) for block in blocks for tensor in _tensors(block)}
        others = [tensor for tensor in _tensors(transformer) if id(tensor) not in in_blocks]
        self.others = HostWeights(others, self.device, arrival)
        largest = max(weights.size_bytes for weights in self.blocks.values())
        offloader.enter(transformer, self.others.size_bytes + _BLOCKS_THERE * largest)
        self._copy_stream = torch.cuda.Stream(offloader.device) if offloader.device.type == "cuda" else None

    def ready(self) -> None:
        """Bring everything but the blocks to the device."""
        self._offloader.load(self.others)

    @contextmanager
    def each(self, blocks: Sequence[Any]) -> Iterator[Iterator[Any]]:
        """Iterate over the blocks, each copied to the device one ahead of its use."""
        weights = [self.blocks[block] for block in blocks]
        try:
            yield self._prefetched(blocks, weights)
        finally:
            if self._copy_stream is not None:
                torch.cuda.current_stream(self.device).synchronize()
                self._copy_stream.synchronize()
            for fetched in weights:
                fetched.release()

    def _prefetched(self, blocks: Sequence[Any], weights: list[HostWeights]) -> Iterator[Any]:
        computing: deque[tuple[HostWeights, torch.cuda.Event | None]] = deque()
        coming = self._fetch(weights[0])
        for number, block in enumerate(blocks):
            self._await(coming)
            if len(computing) == _BLOCKS_THERE - 1:
                done, end = computing.popleft()
                if end is not None:
                    end.synchronize()
                done.release()
            if number + 1 < len(blocks):
                coming = self._fetch(weights[number + 1])
            yield block
            computing.append((weights[number], self._end_of_work()))

    def _fetch(self, weights: HostWeights) -> torch.cuda.Event | None:
        """Start a copy on the copy stream; the returned event marks its end. None without CUDA."""
        with nullcontext() if self._copy_stream is None else torch.cuda.stream(self._copy_stream):
            weights.fetch()
        return None if self._copy_stream is None else self._copy_stream.record_event()

    def _await(self, copied: torch.cuda.Event | None) -> None:
        if copied is not None:
            torch.cuda.current_stream(self.device).wait_event(copied)

    def _end_of_work(self) -> torch.cuda.Event | None:
        return None if self._copy_stream is None else torch.cuda.current_stream(self.device).record_event()


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
