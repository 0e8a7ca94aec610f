"""Faults of a service, at random: its processes are killed or frozen."""

import os
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from random import Random
from threading import Event

import psutil

from testbed.launched import Launched

FREEZE_S = 5.5
"""Longer than the lease of a drilled service: a frozen runner mostly comes back to a task given to another.

Shorter than two leases, after which it no longer repeats a publish. The promises hold for any length;
``tests/service/test_two_replicas.py`` freezes a runner until another one has published its task."""

_LOCK_WAIT_S = 10.0
_NEXT_S = 5.0
"""Longer than runs of a drilled service that has work take to end."""


@dataclass(frozen=True)
class Fault:
    """A kind of fault. ``weight`` is its share among the others."""

    name: str
    weight: int
    strike: Callable[["Faults"], bool]
    """Strike a process of the faults' service; return whether there was one to strike."""
    instead: bool = True
    """True if this fault may strike in place of another that finds no process."""


class Faults:
    """The faults of one launched service. Whatever is struck must come back by itself."""

    def __init__(self, launched: Launched, random: Random, spared: frozenset[str] = frozenset()) -> None:
        """``spared``: the kinds that do not strike, by name."""
        self._launched = launched
        self._random = random
        self._kinds = [kind for kind in KINDS if kind.name not in spared]
        self.struck: dict[str, int] = {}

    def strike(self) -> bool:
        """Strike one fault of a random kind, or of another kind where this one finds no process.

        Returns whether any process was struck: soon after another fault there may be none.
        """
        first, *others = self._random.choices(self._kinds, [kind.weight for kind in self._kinds], k=20)
        for kind in (first, *(other for other in others if other.instead)):
            if kind.strike(self):
                self.struck[kind.name] = self.struck.get(kind.name, 0) + 1
                return True
        return False

    def kill(self, title: str) -> bool:
        """Kill one process (SIGKILL) whose title, or whose program, begins with ``title``."""
        found = self._processes(title)
        return bool(found) and _signal(self._random.choice(found), signal.SIGKILL)

    def kill_ffmpeg(self) -> bool:
        """Kill the next ffmpeg (SIGKILL) of a model replica.

        It lives for a fraction of a second, in a session of its own.
        """
        replicas = self._processes(f"{_REPLICA}model-")
        ends = time.monotonic() + _NEXT_S
        while replicas and time.monotonic() < ends:
            for child in chain.from_iterable(map(_children, replicas)):
                if _program(child).startswith("ffmpeg"):
                    return _signal(child, signal.SIGKILL)
        return False

    def freeze(self, title: str) -> bool:
        """Stop one process (SIGSTOP) for longer than a lease, then let it go on."""
        found = self._processes(title)
        if not found:
            return False
        process = self._random.choice(found)
        if not _signal(process, signal.SIGSTOP):
            return False
        Event().wait(FREEZE_S)  # the fault itself: time goes by
        return _signal(process, signal.SIGCONT)

    def lock_database(self) -> bool:
        """Hold the lock of the database's writers for longer than a lease."""
        database = self._launched.service.data_dir / "tasks.db"
        with closing(sqlite3.connect(database, timeout=_LOCK_WAIT_S, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:  # others came first for all that time
                return False
            Event().wait(FREEZE_S)  # the fault itself
        return True

    def stop_everything(self) -> bool:
        """Stop the service as a supervisor does, by a SIGTERM to its group, then start it again."""
        self._launched.signal(group=True)
        self._launched.ended()
        self._launched.start()
        return True

    def kill_everything(self) -> bool:
        """Kill every process of the service (SIGKILL), then start it again."""
        self._launched.kill()
        self._launched.start()
        return True

    def _processes(self, title: str) -> list[psutil.Process]:
        return [
            process
            for process in self._launched.tree()
            if _title(process).startswith(title) or _program(process).startswith(title)
        ]


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children()
    except psutil.Error:
        return []


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _program(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""


def _signal(process: psutil.Process, number: signal.Signals) -> bool:
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    return True


_REPLICA = "ray::ServeReplica:wan-serve:"

KINDS = (
    Fault("model replica killed", 50, lambda faults: faults.kill(f"{_REPLICA}model-")),
    Fault("model replica frozen", 8, lambda faults: faults.freeze(f"{_REPLICA}model-")),
    Fault("coordinator killed", 18, lambda faults: faults.kill(f"{_REPLICA}coordinator")),
    Fault("ingress replica killed", 14, lambda faults: faults.kill(f"{_REPLICA}api")),
    Fault("coordinator frozen", 4, lambda faults: faults.freeze(f"{_REPLICA}coordinator")),
    Fault("ingress replica frozen", 3, lambda faults: faults.freeze(f"{_REPLICA}api")),
    Fault("Serve controller killed", 8, lambda faults: faults.kill("ray::ServeController")),
    Fault("proxy killed", 6, lambda faults: faults.kill("haproxy")),
    Fault("manager of the proxy killed", 3, lambda faults: faults.kill("ray::HAProxyManager")),
    Fault("ffmpeg killed", 6, Faults.kill_ffmpeg),
    Fault("database locked", 4, Faults.lock_database),
    Fault("everything stopped", 1, Faults.stop_everything, instead=False),
    Fault("everything killed", 2, Faults.kill_everything, instead=False),
)
