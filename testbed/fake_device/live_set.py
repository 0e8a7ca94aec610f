"""Bytes that are alive on the device: of all storages that were made and not freed."""

import weakref

from torch import Tensor

from testbed.fake_device.operation import Operation


class LiveSet:
    """An observer that knows the bytes alive, and the most that were alive at once.

    Counts what is made while it observes. The scratch memory of kernels and the allocator's rounding are not
    in it.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self.peak = 0

    def operated(self, operation: Operation) -> None:
        """Add what an operation makes."""
        for tensor in operation.made:
            if tensor.device.type == "cuda":
                self._add(tensor)

    def waited(self, name: str) -> None:
        """Do nothing: waiting takes no memory."""

    def forget_peak(self) -> None:
        """Look for the most from here on."""
        self.peak = self.bytes

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._freed, size)

    def _freed(self, size: int) -> None:
        self.bytes -= size
