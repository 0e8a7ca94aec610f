"""Transport of weights from mapped files to a device, through a few small windows of the host's memory."""

from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

_WINDOWS = 8
_WINDOW_BYTES = 1 << 24


class Carrier:
    """Brings tensors from the host's memory, mostly views of mapped files, to a device and to their dtype.

    A CUDA device reads pinned memory alone by itself. So a tensor passes through pinned windows: while the
    device copies from one, the next is filled. It travels in the dtype that it is stored in and is cast where
    it arrives. Neither side ever holds more than the windows beside the result. Several threads may carry at
    once.
    """

    def __init__(self, device: torch.device, window_bytes: int = _WINDOW_BYTES) -> None:
        """``window_bytes``: a multiple of 8. To be made by the thread whose current device is ``device``."""
        self.device = device
        self._window_bytes = window_bytes
        pinned = device.type == "cuda"
        self._windows: SimpleQueue[tuple[Tensor, Any]] = SimpleQueue()
        """The windows that may be filled, each once its event has come, if it has one."""
        for _ in range(_WINDOWS):
            self._windows.put((torch.empty(window_bytes, dtype=torch.uint8, pin_memory=pinned), None))

    def carry(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a contiguous tensor of the host on the device, in ``dtype``: the tensor itself where there
        is nothing to do.
        """
        if self.device.type == tensor.device.type:
            return tensor.to(dtype)
        return self.through_windows(tensor, dtype)

    def through_windows(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a copy of a contiguous tensor of the host on the device, in ``dtype``."""
        result = torch.empty_like(tensor, dtype=dtype, device=self.device)
        source, target = tensor.view(-1), result.view(-1)
        step = self._window_bytes // tensor.element_size()
        for begin in range(0, source.numel(), step):
            self._copy(source[begin : begin + step], target[begin : begin + step])
        return result

    def _copy(self, source: Tensor, target: Tensor) -> None:
        memory, copied = self._windows.get()
        try:
            if copied is not None:
                copied.synchronize()
            window = memory[: source.nbytes].view(source.dtype).copy_(source)
            if window.dtype != target.dtype:  # or the host would cast
                window = window.to(self.device, non_blocking=True)
            target.copy_(window, non_blocking=True)
            copied = torch.cuda.current_stream(self.device).record_event() if memory.is_pinned() else None
        finally:
            self._windows.put((memory, copied))
