"""Following tasks: waiting for their changes and for their end."""

import time
from collections.abc import AsyncIterator, Sequence

from serve_app.errors import TaskNotFound
from serve_app.queue.feed import TaskFeed
from serve_app.store.task_store import TaskStore
from serve_app.tasks.caller import Caller
from serve_app.tasks.task import Task
from serve_app.tasks.transitions import Status

_MOST_UNENDED = 500
_MOST_ENDED = 500
_CLOCK_SLACK_S = 60.0
"""How far the clocks of the processes that end tasks and of those that answer may be apart."""


class Follower:
    """Yields tasks as they change. The store is asked only about what the feed has seen change."""

    def __init__(self, store: TaskStore, feed: TaskFeed) -> None:
        self._store = store
        self._feed = feed

    async def task(self, caller: Caller, task: Task, *, pause_s: float) -> AsyncIterator[Task]:
        """Yield the task as it stands now and after each change, at the latest every ``pause_s`` seconds.

        Ends after its final state, or once the task is no longer kept.
        """
        async with self._feed.watching(caller, task.uid) as watch:
            has_changed = True  # since it was read, for all that is known
            while True:
                if has_changed:
                    found = await self._store.of_uids(caller, [task.uid])
                    if not found:
                        return
                    task = found[0]
                yield task
                if task.is_final:
                    return
                has_changed = bool(await watch.changed(pause_s))

    async def until_ended(self, caller: Caller, task: Task, *, wait_s: float) -> Task:
        """Return the task once it has ended, or as it stands after ``wait_s`` seconds.

        Raises ``TaskNotFound`` if the task is deleted meanwhile.
        """
        if task.is_final or wait_s <= 0:
            return task
        until = time.monotonic() + wait_s
        async with self._feed.watching(caller, task.uid) as watch:
            while True:
                found = await self._store.of_uids(caller, [task.uid])
                if not found:
                    raise TaskNotFound(f"There is no task {task.id}")
                left = until - time.monotonic()
                if found[0].is_final or left <= 0:
                    return found[0]
                await watch.changed(left)

    async def all(
        self, caller: Caller, *, ended_since: float | None, pause_s: float
    ) -> AsyncIterator[Sequence[Task]]:
        """Yield the caller's unended tasks, then those that changed, at the latest every ``pause_s`` seconds.

        ``ended_since``, in seconds since 1970: tasks that ended since then come first, and some that ended
        shortly before. An empty sequence: nothing has changed for ``pause_s`` seconds.
        """
        async with self._feed.watching(caller) as watch:
            if ended_since is not None:
                since = ended_since - _CLOCK_SLACK_S
                yield await self._store.ended_since(caller, since, limit=_MOST_ENDED)
            unended = await self._store.list(
                caller, statuses=(Status.QUEUED, Status.RUNNING), limit=_MOST_UNENDED
            )
            yield list(reversed(unended))
            while True:
                changed = await watch.changed(pause_s)
                yield await self._store.of_uids(caller, list(changed)) if changed else ()
