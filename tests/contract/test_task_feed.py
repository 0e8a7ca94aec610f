"""The feed of task changes, on each database."""

import asyncio

from serve_app.queue.feed import TaskFeed, Watch
from serve_app.store.database import Database
from serve_app.store.run_ledger import RunLedger
from serve_app.store.task_store import TaskStore
from serve_app.tasks.caller import EVERYONE, Caller
from tests.contract.tasks import ADMISSION, at, claimed, made, new

DEADLINE_S = 30.0


async def every_change(watch: Watch, *uids: str) -> None:
    """Wait until the watch has told of all these tasks."""
    missing = set(uids)
    async with asyncio.timeout(DEADLINE_S):
        while missing:
            missing -= await watch.changed(DEADLINE_S)


async def test_each_move_is_told_to_whoever_watches_the_task_or_all(
    store: TaskStore, ledger: RunLedger
) -> None:
    feed = TaskFeed(store)
    task = await claimed(store, ledger)
    async with feed.watching(EVERYONE, task.uid) as one, feed.watching(EVERYONE) as all:
        assert await ledger.report(task.uid, task.attempt, at(1, 0.5))
        await every_change(one, task.uid)
        await every_change(all, task.uid)
        await ledger.publish(task.uid, task.attempt, made("a"))
        await every_change(one, task.uid)
        await every_change(all, task.uid)


async def test_a_task_that_comes_and_ends_before_the_next_look_is_told_of(store: TaskStore) -> None:
    feed = TaskFeed(store)
    async with feed.watching(EVERYONE) as watch:
        await store.submit(new("short"), ADMISSION)
        await store.cancel(EVERYONE, "short")
        await every_change(watch, "uid-short")


async def test_nobody_is_told_of_the_tasks_of_others(store: TaskStore) -> None:
    feed = TaskFeed(store)
    async with feed.watching(Caller("alice")) as watch:
        for name, owner in (("his", "bob"), ("hers", "alice")):
            await store.submit(new(name, owner=owner), ADMISSION)
        async with asyncio.timeout(DEADLINE_S):
            assert await watch.changed(DEADLINE_S) == {"uid-hers"}


async def test_the_looks_end_with_the_last_watch_and_begin_again_with_the_next(store: TaskStore) -> None:
    feed = TaskFeed(store)
    for name in ("a", "b"):
        async with feed.watching(EVERYONE) as watch:
            await store.submit(new(name), ADMISSION)
            await every_change(watch, f"uid-{name}")
            assert feed.is_looking
        async with asyncio.timeout(DEADLINE_S):
            while feed.is_looking:
                await asyncio.sleep(0.01)


async def test_a_store_that_is_away_for_a_while_is_looked_at_again(
    store: TaskStore, database: Database
) -> None:
    feed = TaskFeed(store)
    async with feed.watching(EVERYONE) as watch:
        await database.close()  # a pool of connections opens anew
        await store.submit(new("a"), ADMISSION)
        await every_change(watch, "uid-a")
