"""Tensors on their way from the device to the host, while the device goes on with other work."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from models.engine import Frames


class Readback:
    """A copy of a tensor to the host's memory; on a CPU the tensor itself, which must not change any more.

    From CUDA it is queued behind the work that makes the tensor, into pinned memory, and nothing waits for it
    before ``array``.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._copied: torch.cuda.Event | None = None
        self._host = tensor
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._copied = torch.cuda.current_stream(tensor.device).record_event()

    def array(self) -> NDArray[Any]:
        """Wait for the copy, and return it."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._host.numpy()


def read_back(chunks: Iterable[Tensor], ahead: bool) -> Iterator[Frames]:
    """Yield the frames of each chunk, ``[n, height, width, 3]`` uint8.

    ``ahead``: yield them once the next chunk is queued on the device, which so has work while the frames are
    taken: the host then waits for one chunk, not for all that is queued.
    """
    arriving: Readback | None = None
    for chunk in chunks:
        coming = Readback(chunk)
        if not ahead:
            yield coming.array()
            continue
        if arriving is not None:
            yield arriving.array()
        arriving = coming
    if arriving is not None:
        yield arriving.array()
