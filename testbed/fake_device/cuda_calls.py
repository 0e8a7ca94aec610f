"""Stand-ins for the functions of ``torch.cuda`` that ask or command a device rather than compute on it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

_HOPPER = (9, 0)


@contextmanager
def cuda_calls(waits: Callable[[str], None], free_bytes: int) -> Iterator[None]:
    """Let ``torch.cuda`` speak of a Hopper device with ``free_bytes`` of memory.

    ``waits`` is called with the name of each function that makes the host wait for the device.
    """

    def synchronize(device: object = None) -> None:
        waits("torch.cuda.synchronize")

    stream = _Stream(waits)
    with patch.multiple(
        torch.cuda,
        synchronize=synchronize,
        mem_get_info=lambda device=None: (free_bytes, free_bytes),
        memory_reserved=lambda device=None: 0,
        memory_allocated=lambda device=None: 0,
        get_device_capability=lambda device=None: _HOPPER,
        set_device=lambda device: None,
        current_stream=lambda device=None: stream,
        Stream=lambda *args, **options: _Stream(waits),
        stream=lambda stream: _Entered(),
        Event=lambda *args, **options: _Event(waits),
    ):
        yield


class _Event:
    def __init__(self, waits: Callable[[str], None]) -> None:
        self._waits = waits

    def record(self, stream: Any = None) -> None:
        pass

    def wait(self, stream: Any = None) -> None:
        pass

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        self._waits("torch.cuda.Event.synchronize")

    def elapsed_time(self, end: "_Event") -> float:
        return 1.0


class _Stream:
    def __init__(self, waits: Callable[[str], None]) -> None:
        self._waits = waits

    def synchronize(self) -> None:
        self._waits("torch.cuda.Stream.synchronize")

    def record_event(self, event: _Event | None = None) -> _Event:
        return event or _Event(self._waits)

    def wait_event(self, event: _Event) -> None:
        pass

    def wait_stream(self, stream: "_Stream") -> None:
        pass


class _Entered:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass
