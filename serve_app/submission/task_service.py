"""The task service that all surfaces call: submit, query, cancel."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress

from serve_app.errors import (
    FileNotFound,
    NoPreview,
    NoReplica,
    NothingToSend,
    NotRunning,
    NotWaiting,
    StoreUnavailable,
    TaskNotFound,
    Unavailable,
)
from serve_app.files.artifacts import Artifacts
from serve_app.files.output_paths import SavePath
from serve_app.files.stored_file import StoredFile
from serve_app.media.video_stills import StillKind, VideoStills
from serve_app.queue.feed import TaskFeed
from serve_app.queue.snapshot import QueueSnapshot
from serve_app.queue.view import QueueView
from serve_app.store.group_commit import draining
from serve_app.store.outbox import Outbox
from serve_app.store.task_store import TaskStore
from serve_app.store.uploads import Uploads
from serve_app.submission.field_words import FieldWords
from serve_app.submission.follow import Follower
from serve_app.submission.offer import Offer
from serve_app.submission.pausing import Pausing
from serve_app.submission.submitted import Submitted
from serve_app.submission.submitter import Submitter
from serve_app.submission.task_id import is_task_id
from serve_app.submission.video_order import OrderFault, VideoOrder
from serve_app.submission.video_places import VideoPlaces
from serve_app.tasks.acts import Acts
from serve_app.tasks.caller import Caller
from serve_app.tasks.move_log import log_move
from serve_app.tasks.task import Task
from serve_app.tasks.transitions import Status
from serve_app.tasks.upload import Upload
from serve_app.tasks.webhook import Delivery


class TaskService:
    """The interface of the service to all its surfaces.

    Task methods take the caller, and see only that caller's tasks.
    """

    def __init__(
        self,
        *,
        offer: Offer,
        submitter: Submitter,
        store: TaskStore,
        outbox: Outbox,
        uploads: Uploads,
        view: QueueView,
        artifacts: Artifacts,
        places: VideoPlaces,
        pausing: Pausing,
        nudge: Callable[[], None],
        on_cancelled: Callable[[Task], None],
        acts: Acts,
    ) -> None:
        """``nudge`` tells the coordinator that there is something to do; it returns at once and never raises.

        ``on_cancelled`` is called with each task that is cancelled here, ``acts`` with what callers do.
        """
        self._offer = offer
        self._submitter = submitter
        self._store = store
        self._outbox = outbox
        self._uploads = uploads
        self._follower = Follower(store, TaskFeed(store))
        self._view = view
        self._artifacts = artifacts
        self._places = places
        self.pausing = pausing
        self._nudge = nudge
        self._on_cancelled = on_cancelled
        self._acts = acts
        self._stills = VideoStills(artifacts)

    @property
    def offer(self) -> Offer:
        """The models and limits of this service."""
        return self._offer

    async def submit(
        self, caller: Caller, order: VideoOrder, words: FieldWords, *, replace_same_id: bool = False
    ) -> Submitted:
        """Store a task and return once it is committed. Raises ``ServiceError``, in the surface's words."""
        return await self._submitter.submit(caller, order, words, replace_same_id=replace_same_id)

    async def submit_if_free(
        self, caller: Caller, order: VideoOrder, words: FieldWords, *, replace_same_id: bool = False
    ) -> Submitted | None:
        """Submit only if a replica is free to begin at once, else return None. Raises ``ServiceError``."""
        return await self._submitter.submit_if_free(caller, order, words, replace_same_id=replace_same_id)

    async def task(self, caller: Caller, task_id: str) -> Task:
        """Return the task of that id. Raises ``TaskNotFound``."""
        _require_task_id(task_id)
        return await self._store.get(caller, task_id)

    async def tasks(
        self,
        caller: Caller,
        *,
        statuses: Sequence[Status] = tuple(Status),
        limit: int,
        after: str | None = None,
        oldest_first: bool = False,
    ) -> Sequence[Task]:
        """Return at most ``limit`` tasks, newest first, from ``after`` on. Raises ``TaskNotFound``."""
        if after is not None:
            _require_task_id(after)
        return await self._store.list(
            caller, statuses=statuses, limit=limit, after=after, oldest_first=oldest_first
        )

    def following(self, caller: Caller, task: Task, *, pause_s: float) -> AsyncIterator[Task]:
        """Yield a task now and after each change, and every ``pause_s`` seconds, until it has ended."""
        return self._follower.task(caller, task, pause_s=pause_s)

    def following_all(
        self, caller: Caller, *, ended_since: float | None, pause_s: float
    ) -> AsyncIterator[Sequence[Task]]:
        """Yield the caller's tasks that ended since a time and those not ended, then those that change."""
        return self._follower.all(caller, ended_since=ended_since, pause_s=pause_s)

    async def ended(self, caller: Caller, task: Task, *, wait_s: float) -> Task:
        """Return a task once it has ended, or as it stands after ``wait_s`` seconds."""
        return await self._follower.until_ended(caller, task, wait_s=wait_s)

    async def webhooks(self, tasks: Sequence[Task]) -> Mapping[str, Sequence[Delivery]]:
        """Return the messages about each task, by uid; a task without any has no entry."""
        return await self._outbox.of(tasks)

    async def uploads(self, tasks: Sequence[Task]) -> Mapping[str, Upload]:
        """Return the uploads of those of ``tasks`` whose video is sent to its client's storage, by uid."""
        return await self._uploads.of(tasks)

    async def resend(self, caller: Caller, task_id: str) -> Task:
        """Have the messages about a task sent again. Raises ``TaskNotFound``, ``NothingToSend``."""
        task = await self.task(caller, task_id)
        if not await self._outbox.resend(task):
            raise NothingToSend("There is no message about this task that could be sent again.")
        self._note("resend_webhooks", caller, task)
        self._nudge()
        return task

    async def published(self, caller: Caller, name: str) -> Task:
        """Return the finished task whose video has that name. Raises ``FileNotFound``, ``PathForbidden``."""
        return await self._places.published(caller, name)

    async def video(self, task: Task) -> StoredFile:
        """Return a finished task's video. Raises ``FileNotFound``, ``StoreUnavailable``."""
        try:
            return await asyncio.to_thread(self._artifacts.find, task.artifact or "")
        except FileNotFound:
            raise FileNotFound("The video is no longer kept.") from None

    async def input(self, key: str) -> bytes:
        """Return a stored input of a task. Raises ``FileNotFound``, ``StoreUnavailable``."""
        try:
            return await asyncio.to_thread(self._artifacts.read_input, key)
        except FileNotFound:
            raise FileNotFound("This input of the task is no longer kept.") from None

    async def preview(self, task: Task, form: str) -> bytes:
        """Return a task's newest preview, WebP, and have more made while it runs. Raises ``NoPreview``.

        ``form``: ``still`` or ``strip``.
        """
        if task.status is Status.RUNNING:
            await self._store.want_previews(task)
        try:
            return await asyncio.to_thread(self._artifacts.read_preview, task.uid, task.attempt, form)
        except FileNotFound:
            raise NoPreview(
                "The task has no preview yet; ask again." if not task.is_final else "The task has no preview."
            ) from None

    async def still(self, task: Task, kind: StillKind) -> StoredFile:
        """Return a picture of a finished task's video. Raises ``FileNotFound``, ``StoreUnavailable``."""
        return await self._stills.of(task.artifact or "", kind, task.total_frames)

    async def queue(self) -> QueueSnapshot:
        """Return the queue as it stood a moment ago; one snapshot serves many requests."""
        return await self._view.recent()

    async def queue_now(self) -> QueueSnapshot:
        """Return the queue as it stands now."""
        return await self._view.fresh()

    async def counts(self) -> Mapping[Status, int]:
        """Return how many tasks of all owners stand in each status."""
        return await self._store.counts()

    async def require_ready(self) -> None:
        """Raise ``Unavailable``, with the reason, unless a task submitted now would be run."""
        if await self._store.is_draining():
            raise draining()
        if await self._view.is_disk_low():
            raise Unavailable(
                "The service is low on disk space: it begins no task until there is room again."
            )
        if not (self._offer.scales_from_zero or await self._view.has_working_replica()):
            raise NoReplica("No model replica is ready yet.")

    async def cancel(self, caller: Caller, task_id: str) -> tuple[Task, bool]:
        """Cancel a task; return it and whether this call did so. Raises ``TaskNotFound``."""
        _require_task_id(task_id)
        task, cancelled = await self._store.cancel(caller, task_id)
        if cancelled:
            self._tell_cancelled(caller, [task])
        return task, cancelled

    async def forget(self, caller: Caller, task_id: str) -> None:
        """Delete a task with its files, and cancel it before if it has not ended. Raises ``TaskNotFound``."""
        task, _ = await self.cancel(caller, task_id)
        if await self._store.forget(task.uid) is None:
            return  # another call was faster
        log_move("forget", task)
        self._note("delete", caller, task)
        if task.status is Status.CANCELLED and task.attempt > 0:
            return  # its run may still read and write there; the janitor deletes what has no task
        await self._forget_files(task.uid, await self._places.place_of(task), task.artifact)

    async def reorder(self, caller: Caller, task_id: str, priority: int) -> Task:
        """Give a waiting task another priority. Raises ``TaskNotFound``, ``InvalidField``, ``NotWaiting``."""
        _require_task_id(task_id)
        try:
            self._offer.check_priority(caller, priority)
        except OrderFault as fault:
            raise FieldWords({}).refusal(fault) from None
        task, was_queued = await self._store.reorder(caller, task_id, priority)
        if not was_queued:
            raise NotWaiting("Only a task that waits in the queue can be given another priority.")
        log_move("reorder", task, priority=priority)
        self._note("reorder", caller, task)
        return task

    async def put_first(self, caller: Caller, task_id: str) -> Task:
        """Put a waiting task before all of its owner and model. Raises ``TaskNotFound``, ``NotWaiting``."""
        _require_task_id(task_id)
        task, was_queued = await self._store.put_first(caller, task_id)
        if not was_queued:
            raise NotWaiting("Only a task that waits in the queue can be put before others.")
        log_move("put_first", task, priority=task.priority)
        self._note("put_first", caller, task)
        return task

    async def finish_early(self, caller: Caller, task_id: str) -> Task:
        """Have a run end with what it has made. Raises ``TaskNotFound``, ``NotRunning``."""
        _require_task_id(task_id)
        task, was_running = await self._store.finish_early(caller, task_id)
        if not was_running:
            raise NotRunning("Only a task that runs can be finished early.")
        log_move("finish_early", task)
        self._note("finish_early", caller, task)
        return task

    async def cancel_all(self, caller: Caller, *statuses: Status) -> Sequence[Task]:
        """Cancel every task of the caller's that stands in one of ``statuses``; return those cancelled."""
        tasks = await self._store.cancel_all(caller, *statuses)
        self._tell_cancelled(caller, tasks)
        return tasks

    def _tell_cancelled(self, caller: Caller, tasks: Sequence[Task]) -> None:
        for task in tasks:
            log_move("cancel", task)
            self._note("cancel", caller, task)
            self._on_cancelled(task)
        if tasks:
            self._nudge()

    def _note(self, act: str, caller: Caller, task: Task) -> None:
        """Record what a caller did with a task, and whose it is if it is not the caller's own."""
        self._acts.did(caller, act, task_id=task.id, owner=None if task.owner == caller.name else task.owner)

    async def _forget_files(self, uid: str, place: SavePath | None = None, key: str | None = None) -> None:
        with suppress(OSError, StoreUnavailable):  # the janitor will try again
            await asyncio.to_thread(self._artifacts.delete_task_files, uid, place, key)


def _require_task_id(text: str) -> None:
    if not is_task_id(text):  # no task can have it, and not every database could be asked for it
        raise TaskNotFound("There is no task of that id.")
