"""Conversion of torch's exceptions to the error tree of ``models.errors``."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from models.errors import DeviceLost, EngineLost, ModelError, OutOfMemory, first_line

_NO_MEMORY = re.compile(
    r"can't allocate memory|CU(DNN|BLAS|BLASLT)_STATUS_ALLOC_FAILED"
    r"|(CUDA (driver )?error|Triton Error \[CUDA\]): out of memory"
)
"""Texts of memory that ran out without torch's own type: of the CPU's allocator, and of CUDA's libraries."""

_LOST = re.compile(
    r"CUDA (driver )?error|NCCL error|cuDNN error|CU(DNN|BLAS|BLASLT)_STATUS_|Triton Error \[CUDA\]",
    re.IGNORECASE,
)
"""Texts of a fault of the device or of a library on it. torch raises most of them as RuntimeError."""

_REFUSED = re.compile(r"CU(DNN|BLAS|BLASLT)_STATUS_(NOT_SUPPORTED|BAD_PARAM|INVALID_VALUE|ARCH_MISMATCH)")
"""Texts of a library that refuses a call before it starts it."""


@contextmanager
def as_model_errors(doing: str) -> Iterator[None]:
    """Convert any failure while ``doing`` (such as "denoising") to an error of the tree, its cause attached
    for the log.

    Raises ``OutOfMemory`` if memory ran out, ``DeviceLost`` if the device can do no further work, otherwise
    ``ModelError``; lets ``ModelError`` and ``EngineLost`` pass.
    """
    try:
        yield
    except (ModelError, EngineLost):
        raise
    except Exception as error:
        if _is_device_fault(error):
            raise DeviceLost(f"The device failed while {doing}: {first_line(error)}") from error
        if (fault := _fault_of_device()) is not None:
            raise DeviceLost(f"The device failed while {doing}: {first_line(fault)}") from error
        if _is_out_of_memory(error):
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            raise OutOfMemory(
                f"The device ran out of memory while {doing}; ask for fewer frames or a smaller size."
            ) from error
        raise ModelError(f"The model failed while {doing} ({type(error).__name__}).") from error


def _is_device_fault(error: Exception) -> bool:
    if _is_out_of_memory(error):
        return False
    text = str(error)
    refused = _REFUSED.search(text) is not None
    return isinstance(error, torch.AcceleratorError) or (not refused and _LOST.search(text) is not None)


def _fault_of_device() -> Exception | None:
    """Return what the device answers to a synchronisation; None if it is well, or was never used.

    A CUDA context that has failed answers every later call with the same error. Work is queued, so the call
    that raised first need not be the one at fault, nor name it.
    """
    if not torch.cuda.is_initialized():
        return None
    try:
        torch.cuda.synchronize()
    except Exception as fault:
        return fault
    return None


def _is_out_of_memory(error: Exception) -> bool:
    # Only torch's own allocator of device memory has a type for it.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or bool(_NO_MEMORY.search(str(error)))
