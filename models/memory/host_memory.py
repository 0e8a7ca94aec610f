"""Memory of the host that a device reads from: pinned, to its exact size."""

from weakref import finalize

import torch
from torch import Tensor

_PINNED_FROM = 1 << 20
"""Bytes from which a copy is pinned. Smaller ones may share a page, which CUDA pins once."""


class HostMemory:
    """A piece of host memory. For a CUDA device it is pinned, for as long as this object lives.

    Torch's own pinned memory would round the size up to a power of two.
    """

    def __init__(self, size_bytes: int, device: torch.device) -> None:
        self.bytes = torch.empty(size_bytes, dtype=torch.uint8)
        if device.type == "cuda" and size_bytes > 0:
            start, runtime = self.bytes.data_ptr(), torch.cuda.cudart()
            torch.cuda.check_error(int(runtime.cudaHostRegister(start, size_bytes, 0)))
            finalize(self, runtime.cudaHostUnregister, start).atexit = False


class HostCopy:
    """A copy of a tensor without gaps in the host's memory, for a device that will read it."""

    def __init__(self, tensor: Tensor, device: torch.device) -> None:
        pinned_for = device if tensor.nbytes >= _PINNED_FROM else torch.device("cpu")
        self._memory = HostMemory(tensor.nbytes, pinned_for)
        self.tensor = placed(self._memory.bytes, 0, tensor).copy_(tensor)


def placed(memory: Tensor, start: int, like: Tensor) -> Tensor:
    """Return the bytes of ``memory`` from ``start`` on as a tensor of the form of ``like``, which has no
    gaps.
    """
    return memory[start : start + like.nbytes].view(like.dtype).as_strided(like.shape, like.stride())
