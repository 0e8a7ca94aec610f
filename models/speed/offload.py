"""Models larger than the device: weights live in the host's memory and visit the device to be computed with.

They never change, so there is nothing to carry back: leaving the device is dropping the copy.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from models.errors import TuningError
from models.tuning import Tuning


def check_offload(tuning: Tuning, device: torch.device) -> None:
    """Raise ``TuningError`` where weights cannot be kept off the device."""
    if tuning.offload == "none":
        return
    if device.type != "cuda":
        raise TuningError(
            f"offload must be none on a {device.type} engine: it is for the memory of CUDA devices."
        )
    for name, wanted in (("compile", tuning.compile), ("fp8", tuning.fp8)):
        if wanted:
            raise TuningError(f"offload {tuning.offload} and {name} do not go together: set one of them.")


class HostWeights:
    """Tensors of a model, which from now on hold the host's copy, or while fetched the device's."""

    def __init__(self, tensors: Iterable[Tensor], device: torch.device) -> None:
        self._device = device
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self.fetched = False
        for tensor in tensors:
            host = self._at_home(tensor.data)
            tensor.data = host  # one by one, so that no second copy of them all is needed
            self._pairs.append((tensor, host))

    def fetch(self) -> None:
        """Copy to the device. From pinned memory, as CUDA has it, the copy goes on after the call."""
        with torch.inference_mode(False):  # else the tensors would be of a kind that a parameter cannot hold
            for tensor, host in self._pairs:
                tensor.data = torch.empty_like(host, device=self._device).copy_(host, non_blocking=True)
        self.fetched = True

    def release(self) -> None:
        """Drop the device's copy; what uses it must be done, or queued on the stream that it came by."""
        for tensor, host in self._pairs:
            tensor.data = host
        self.fetched = False

    def _at_home(self, tensor: Tensor) -> Tensor:
        host = tensor.cpu()
        return host.pin_memory() if self._device.type == "cuda" else host


class Offloader:
    """Keeps one part of a model on the device at a time, and offloads it when another part is needed."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._holder: HostWeights | None = None

    def load(self, weights: HostWeights) -> None:
        """Have ``weights`` on the device, and no others. Costs nothing if they are there already."""
        if self._holder is weights:
            return
        if self._holder is not None:
            self._holder.release()
            self._holder = None
            if self.device.type == "cuda":
                torch.cuda.empty_cache()  # parts differ in size: what is left in pieces would serve none
        try:
            weights.fetch()
        except BaseException:
            weights.release()  # of what was there when memory ran out
            raise
        self._holder = weights

    def add(self, module: nn.Module) -> None:
        """Load ``module`` to the device whenever it is called, and move the tensors that it is given."""
        weights = HostWeights(_tensors(module), self.device)

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            self.load(weights)
            return tuple(map(self._moved, args)), {name: self._moved(value) for name, value in kwargs.items()}

        module.register_forward_pre_hook(before, with_kwargs=True)

    def _moved(self, value: object) -> object:
        return value.to(self.device) if isinstance(value, Tensor) else value


class WholeTransformer:
    """Implements ``BlockWeights``: a transformer that is loaded and offloaded as a whole."""

    def __init__(self, transformer: nn.Module, offloader: Offloader) -> None:
        self.device = offloader.device
        self._offloader = offloader
        self._weights = HostWeights(_tensors(transformer), offloader.device)

    def ready(self) -> None:
        """Bring the transformer to the device."""
        self._offloader.load(self._weights)

    @contextmanager
    def each(self, blocks: Sequence[Any]) -> Iterator[Iterator[Any]]:
        """The blocks, which are all there."""
        yield iter(blocks)


class StreamedBlocks:
    """Implements ``BlockWeights``: a transformer whose blocks are each fetched one ahead of their use.

    While a block computes, the next one is on its way. The one before it may still compute, since a device
    runs behind whoever tells it what to do: so there are at most three at once.
    """

    def __init__(self, transformer: nn.Module, blocks: Sequence[nn.Module], offloader: Offloader) -> None:
        self.device = offloader.device
        self._offloader = offloader
        self.blocks = {block: HostWeights(_tensors(block), offloader.device) for block in blocks}
        in_blocks = {id(tensor) for block in blocks for tensor in _tensors(block)}
        others = [tensor for tensor in _tensors(transformer) if id(tensor) not in in_blocks]
        self.others = HostWeights(others, offloader.device)
        self._copies = torch.cuda.Stream(offloader.device) if offloader.device.type == "cuda" else None

    def ready(self) -> None:
        """Bring everything but the blocks to the device."""
        self._offloader.load(self.others)

    @contextmanager
    def each(self, blocks: Sequence[Any]) -> Iterator[Iterator[Any]]:
        """The blocks, each brought to the device a little ahead of its turn."""
        weights = [self.blocks[block] for block in blocks]
        try:
            yield self._in_turn(blocks, weights)
        finally:
            if self._copies is not None:
                torch.cuda.current_stream(self.device).synchronize()
                self._copies.synchronize()
            for fetched in weights:
                fetched.release()

    def _in_turn(self, blocks: Sequence[Any], weights: list[HostWeights]) -> Iterator[Any]:
        computing: deque[tuple[HostWeights, torch.cuda.Event | None]] = deque()
        coming = self._fetch(weights[0])
        for number, block in enumerate(blocks):
            self._await(coming)
            if len(computing) == 2:
                done, end = computing.popleft()
                if end is not None:
                    end.synchronize()
                done.release()
            if number + 1 < len(blocks):
                coming = self._fetch(weights[number + 1])
            yield block
            computing.append((weights[number], self._end_of_work()))

    def _fetch(self, weights: HostWeights) -> torch.cuda.Event | None:
        """Start to copy, beside what is computed; the event is the end of it."""
        with nullcontext() if self._copies is None else torch.cuda.stream(self._copies):
            weights.fetch()
        return None if self._copies is None else self._copies.record_event()

    def _await(self, copied: torch.cuda.Event | None) -> None:
        if copied is not None:
            torch.cuda.current_stream(self.device).wait_event(copied)

    def _end_of_work(self) -> torch.cuda.Event | None:
        return None if self._copies is None else torch.cuda.current_stream(self.device).record_event()


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
