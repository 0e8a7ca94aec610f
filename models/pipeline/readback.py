"""Frames on their way from the device to the host, while the device goes on with the next ones."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from models.engine import Frames


class Readback:
    """A copy of one chunk's frames, ``[n, height, width, 3]`` uint8, to the host's memory.

    From CUDA it is queued behind the work that makes the frames, into pinned memory, and nothing waits for it
    before ``frames``.
    """

    def __init__(self, chunk: Tensor) -> None:
        self._copied: torch.cuda.Event | None = None
        self._host = chunk
        if chunk.is_cuda:
            self._host = torch.empty(chunk.shape, dtype=chunk.dtype, pin_memory=True)
            self._host.copy_(chunk, non_blocking=True)
            self._copied = torch.cuda.current_stream(chunk.device).record_event()

    def frames(self) -> Frames:
        """Wait for the copy, and return the frames."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._host.numpy()


def read_back(chunks: Iterable[Tensor], ahead: bool) -> Iterator[Frames]:
    """Yield the frames of each chunk.

    ``ahead``: yield them once the next chunk is queued on the device, which so has work while the frames are
    taken: the host then waits for one chunk, not for all that is queued.
    """
    arriving: Readback | None = None
    for chunk in chunks:
        coming = Readback(chunk)
        if not ahead:
            yield coming.frames()
            continue
        if arriving is not None:
            yield arriving.frames()
        arriving = coming
    if arriving is not None:
        yield arriving.frames()
