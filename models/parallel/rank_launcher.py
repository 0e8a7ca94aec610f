"""Launcher of a group's ranks as processes of this machine: starts them, receives their messages, ends them.

For the command line and for tests; the service starts processes of its own.
"""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist

from models.errors import EngineLost, GroupLost, ModelError
from models.parallel.member import Member, open_store
from models.parallel.mesh import DEFAULT_TIMEOUT_S

_FOREVER_S = 365.0 * 24 * 3600


class LaunchedRank(Member):
    """A member with a pipe to its launcher."""

    def __init__(self, start: "_RankStart") -> None:
        device = f"cuda:{start.number}" if start.device == "cuda" else start.device
        super().__init__(start.port, start.number, start.ranks, device, start.timeout_s)
        self._pipe = start.pipe

    def send(self, content: Any) -> None:
        """Send ``content`` to the launcher; it comes out of ``RankLauncher.messages``."""
        self._pipe.send(content)


Work = Callable[..., None]
"""Function that runs in each rank's process, on its ``LaunchedRank`` and the launcher's arguments; pickled by
name.
"""


class RankLauncher:
    """Context manager that starts the ranks on entry and ends all of them on exit."""

    def __init__(
        self,
        work: Work,
        ranks: int,
        *arguments: object,
        device: str = "cpu",
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        """``device``: ``cpu``, or ``cuda`` for one device per rank; ``timeout_s``: see ``join``."""
        self.failures: dict[int, Exception] = {}
        """Error of each failed rank, in the order of failure."""
        self._work = work
        self._arguments = arguments
        self._ranks = ranks
        self._device = device
        self._timeout_s = timeout_s
        self._processes: list[Any] = []
        self._pipes: dict[Connection, int] = {}

    def __enter__(self) -> Self:
        self._store = open_store()
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def messages(self) -> Iterator[tuple[int, Any]]:
        """Yield the ranks' messages, with the ranks' numbers, until all ranks have ended.

        Raises the error of the rank that failed first, or ``GroupLost`` if a rank ended without one. The
        other ranks have had ``timeout_s`` to notice by then.
        """
        end = None
        while self._pipes and (end is None or time.monotonic() < end):
            for pipe in wait(list(self._pipes), None if end is None else max(end - time.monotonic(), 0)):
                assert isinstance(pipe, Connection)
                yield from self._received(pipe)
            if self.failures and end is None:
                end = time.monotonic() + self._timeout_s + 1
        if self.failures:
            # A GroupLost of other ranks is a consequence; the first error of another type is the cause.
            errors = list(self.failures.values())
            raise next((error for error in errors if not isinstance(error, GroupLost)), errors[0])

    def _received(self, pipe: Connection) -> Iterator[tuple[int, Any]]:
        rank = self._pipes[pipe]
        try:
            content = pipe.recv()
        except (EOFError, OSError):
            del self._pipes[pipe]
            pipe.close()
            self._ended(rank)
            return
        if isinstance(content, _Failed):
            self.failures[rank] = content.error
        else:
            yield rank, content

    def _ended(self, rank: int) -> None:
        process = self._processes[rank]
        process.join()
        if process.exitcode:
            how = (
                f"with status {process.exitcode}"
                if process.exitcode > 0
                else f"by signal {-process.exitcode}"
            )
            self.failures.setdefault(rank, GroupLost(f"Rank {rank} of the group ended {how}."))

    def _start(self) -> None:
        # A CUDA context does not survive a fork; without one, a fork saves each rank the imports.
        context = multiprocessing.get_context("spawn" if self._device == "cuda" else "forkserver")
        if self._device != "cuda":
            context.set_forkserver_preload([self._work.__module__])
        for number in range(self._ranks):
            ours, theirs = context.Pipe()
            start = _RankStart(number, self._ranks, self._device, self._timeout_s, self._store.port, theirs)
            process = context.Process(  # type: ignore[attr-defined]
                target=_run, args=(self._work, start, self._arguments), name=f"rank {number}", daemon=True
            )
            self._pipes[ours] = number
            process.start()
            self._processes.append(process)
            theirs.close()  # otherwise the pipe would stay open after the process ends

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        for pipe in self._pipes:
            pipe.close()
        self._pipes.clear()


@dataclass(frozen=True, slots=True)
class _RankStart:
    """Start parameters of a rank's process."""

    number: int
    ranks: int
    device: str
    timeout_s: float
    port: int
    pipe: Connection


@dataclass(frozen=True, slots=True)
class _Failed:
    error: Exception


def _run(work: Work, start: _RankStart, arguments: tuple[object, ...]) -> None:
    """Main function of a rank's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the launcher ends them
    threading.Thread(target=_end_with_launcher, args=(start.pipe,), daemon=True).start()
    if start.device == "cpu":
        torch.set_num_threads(max((os.cpu_count() or 1) // start.ranks, 1))
    try:
        rank = LaunchedRank(start)
        work(rank, *arguments)
        # A rank that exits early destroys messages that its peers have not received.
        rank.meet(_FOREVER_S)
    except Exception as error:
        traceback.print_exc()
        known = isinstance(error, ModelError | EngineLost)
        with suppress(OSError):
            start.pipe.send(_Failed(error if known else GroupLost(f"Rank {start.number} failed: {error!r}")))
        os._exit(1)  # skip interpreter clean-up, which could wait for the lost ranks
    if dist.is_initialized():
        dist.destroy_process_group()


def _end_with_launcher(pipe: Connection) -> None:
    """Exit when the launcher's process ends: it sends nothing, so the pipe returns only at its end."""
    with suppress(EOFError, OSError):
        pipe.recv()
    os._exit(1)
