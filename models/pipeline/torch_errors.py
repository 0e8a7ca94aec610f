"""Conversion of torch's exceptions to the error tree of ``models.errors``."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from models.errors import GroupLost, ModelError, OutOfMemory


@contextmanager
def as_model_errors(doing: str) -> Iterator[None]:
    """Convert any failure while ``doing`` (such as "denoising") to a ``ModelError``, its cause attached for
    the log.

    Raises ``OutOfMemory`` if memory ran out, otherwise ``ModelError``; lets ``ModelError`` and ``GroupLost``
    pass.
    """
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
    # The CPU allocator raises a plain RuntimeError, recognisable only by its text.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
