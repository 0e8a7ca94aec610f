"""Turns what torch raises into the error tree of ``models.errors``."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from models.errors import GroupLost, ModelError, OutOfMemory


@contextmanager
def as_model_errors(doing: str) -> Iterator[None]:
    """Raise our own error for a failure while ``doing`` ("denoising"), the cause attached for the log."""
    try:
        yield
    except (ModelError, GroupLost):
        raise
    except Exception as error:
        if _is_out_of_memory(error):
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            raise OutOfMemory(
                f"The device ran out of memory while {doing}; ask for fewer frames or a smaller size."
            ) from error
        raise ModelError(f"The model failed while {doing} ({type(error).__name__}).") from error


def _is_out_of_memory(error: Exception) -> bool:
    # The CPU allocator raises a plain RuntimeError that only its text tells apart.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
