"""The feed of task changes, for any number of clients that follow tasks."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from serve_app.store.task_store import TaskStore
from serve_app.tasks.caller import Caller

_PAUSE_S = 0.05
"""Pause between two looks: half of it, on average, is what a change takes to be noticed."""
_COST_SHARE = 5
"""A look that costs t seconds is followed by a pause of at least 5 t, as with very long queues."""
_LOOKS_COMPARED = 5
"""The quickest of the last looks tells what one costs: the others waited for the processor or the disk."""

_logger = logging.getLogger("ray.serve")


@dataclass(eq=False)
class Watch:
    """What a client waits for: the changes of one task, or of all that a caller sees."""

    caller: Caller
    uid: str | None
    """The one task; None for all."""
    _changed: set[str] = field(default_factory=set)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    async def changed(self, within_s: float) -> Set[str]:
        """Return the uids of the tasks that changed since the last call, empty after ``within_s`` seconds."""
        try:
            async with asyncio.timeout(within_s):
                await self._wake.wait()
        except TimeoutError:
            return frozenset()
        self._wake.clear()
        changed, self._changed = self._changed, set()
        return changed

    def tell(self, uid: str) -> None:
        """Note a change."""
        self._changed.add(uid)
        self._wake.set()


class TaskFeed:
    """Looks at the versions of all unended tasks, while anybody watches, and tells each watch its own.

    One look serves all watches of a process, so following a thousand tasks costs little more than one.
    """

    def __init__(self, store: TaskStore) -> None:
        self._store = store
        self._of_task: dict[str, set[Watch]] = {}
        self._of_all: set[Watch] = set()
        self._looking: asyncio.Task[None] | None = None
        self._first_look: asyncio.Future[None] | None = None

    @asynccontextmanager
    async def watching(self, caller: Caller, uid: str | None = None) -> AsyncIterator[Watch]:
        """Watch one task or all of the caller's. No change after the begin of the context is missed."""
        watch = Watch(caller, uid)
        place = self._of_all if uid is None else self._of_task.setdefault(uid, set())
        place.add(watch)
        try:
            if not self.is_looking:
                self._first_look = asyncio.get_running_loop().create_future()
                self._looking = asyncio.create_task(self._look(self._first_look))
            assert self._first_look is not None
            await asyncio.shield(self._first_look)
            yield watch
        finally:
            place.discard(watch)
            if uid is not None and not self._of_task.get(uid, True):
                del self._of_task[uid]

    @property
    def is_looking(self) -> bool:
        """True while somebody watches, and for a moment after."""
        return self._looking is not None and not self._looking.done()

    @property
    def _is_watched(self) -> bool:
        return bool(self._of_task or self._of_all)

    async def _look(self, first: asyncio.Future[None]) -> None:
        newest: int | None = None
        before: dict[str, tuple[str, int]] | None = None
        took_s: deque[float] = deque(maxlen=_LOOKS_COMPARED)
        while self._is_watched:
            began = time.monotonic()
            try:
                if newest is None:
                    newest = await self._store.newest_seq()
                versions, newest = await self._store.versions(newest)
                now = {each.uid: (each.owner, each.version) for each in versions}
                if before is None:
                    first.set_result(None)
                else:
                    self._tell(before, now)
                before = now
                took_s.append(time.monotonic() - began)
            except Exception:  # the store is away: whoever watches goes on once it is back
                _logger.warning("The open tasks could not be looked at", exc_info=True)
            await asyncio.sleep(max(_PAUSE_S, _COST_SHARE * min(took_s, default=0.0)))

    def _tell(self, before: Mapping[str, tuple[str, int]], now: Mapping[str, tuple[str, int]]) -> None:
        for uid, (owner, _) in dict(before.items() ^ now.items()).items():
            for watch in self._of_task.get(uid, ()):
                watch.tell(uid)
            for watch in self._of_all:
                if watch.caller.sees(owner):
                    watch.tell(uid)
