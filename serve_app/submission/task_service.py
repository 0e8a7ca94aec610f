"""What every surface asks of the service: one submit, one look, one cancel, whoever translates them."""

import asyncio
import hashlib
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from serve_app.api.native.video_request import VideoRequest
from serve_app.config.settings import AppSettings
from serve_app.errors import DiskLow, InvalidField, ServiceError
from serve_app.files.artifacts import Artifacts
from serve_app.files.output_paths import OutputPaths
from serve_app.media.image_intake import MAX_PATH_CHARS
from serve_app.queue.view import QueueView
from serve_app.store.fleet import Fleet
from serve_app.store.task_store import TaskStore
from serve_app.submission.frame_intake import FrameIntake
from serve_app.submission.free_disk import FreeDisk
from serve_app.submission.plan import Plan, plan
from serve_app.submission.submission import FRAME_FIELDS, Submission
from serve_app.tasks.admission import Admission
from serve_app.tasks.caller import Caller
from serve_app.tasks.move_log import log_move
from serve_app.tasks.task import NewTask, Task
from serve_app.tasks.transitions import Status


@dataclass(frozen=True, slots=True)
class Submitted:
    """The stored task. ``is_new`` is False when an earlier request with the same idempotency key made it."""

    task: Task
    is_new: bool


@dataclass(frozen=True, slots=True)
class TaskService:
    """The store, the files and the rules of one service, shared by all surfaces.

    Whatever is about tasks is asked in a caller's name, here and of the store.
    """

    settings: AppSettings
    store: TaskStore
    fleet: Fleet
    view: QueueView
    artifacts: Artifacts
    free_disk: FreeDisk
    outputs: OutputPaths
    frames: FrameIntake
    nudge: Callable[[], None]
    """Tells the coordinator that there is something to do; returns at once and never raises."""
    on_cancelled: Callable[[Task], None]
    """Is told of each task that was cancelled here."""
    _submitting: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def submit(
        self, caller: Caller, submission: Submission, *, replace_same_id: bool = False
    ) -> Submitted:
        """Store a task; when this returns it is committed. Raises ``ServiceError``."""
        request = submission.request
        self._check_priority(caller, request.priority)
        planned = plan(request, self.settings.models, kind=submission.kind)
        uid = uuid.uuid4().hex
        save_path = await self._save_path(caller, request, uid, submission.save_field)
        await self._check_disk()
        try:
            planned = await self.frames.kept(submission, planned, uid)
        except ServiceError:  # perhaps after the first of two frames
            await self._forget_files(uid)
            raise
        new = await self._new_task(caller, submission, planned, uid, save_path)
        # A client that hangs up now must not leave it open whether the frames have a row. What is kept of
        # one that hung up before goes with the janitor.
        return await asyncio.shield(self._store(caller, new, replace_same_id=replace_same_id))

    async def _store(self, caller: Caller, new: NewTask, *, replace_same_id: bool) -> Submitted:
        try:
            task = await self.store.submit(new, await self._admission(caller, replace_same_id))
        except ServiceError:
            await self._forget_frames(new)
            raise
        if task.uid != new.uid:
            await self._forget_frames(new)
            return Submitted(task, is_new=False)
        log_move("submit", task, work=task.work, priority=task.priority)
        self.nudge()
        return Submitted(task, is_new=True)

    async def submit_if_free(
        self, caller: Caller, submission: Submission, *, replace_same_id: bool
    ) -> Submitted | None:
        """Submit only when a replica is free to begin at once, else None. Raises ``ServiceError``."""
        model = plan(submission.request, self.settings.models, kind=submission.kind).model
        # One at a time, so that two requests do not both see the same free replica.
        async with self._submitting:
            queue = await self.view.fresh()
            if not (queue.has_free_replica(model) and queue.may_start(caller)):
                return None
            return await self.submit(caller, submission, replace_same_id=replace_same_id)

    async def cancel(self, caller: Caller, task_id: str) -> tuple[Task, bool]:
        """The task, and whether this call cancelled it. Raises ``TaskNotFound``."""
        task, cancelled = await self.store.cancel(caller, task_id)
        if cancelled:
            self._cancelled([task])
        return task, cancelled

    async def cancel_all(self, caller: Caller, *statuses: Status) -> Sequence[Task]:
        """Cancel every task of the caller's that stands in one of ``statuses``; the cancelled ones."""
        tasks = await self.store.cancel_all(caller, *statuses)
        self._cancelled(tasks)
        return tasks

    def _cancelled(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            log_move("cancel", task)
            self.on_cancelled(task)
        if tasks:
            self.nudge()

    def outputs_of(self, caller: Caller) -> OutputPaths:
        """Where the caller may have videos put: without keys anywhere, else below a folder of its own."""
        if not caller.name:
            return self.outputs
        return self.outputs.below(caller.name, takes_absolute=caller.is_admin)

    def _check_priority(self, caller: Caller, priority: int) -> None:
        limit = self.settings.limits.max_priority
        highest = limit if caller.max_priority is None else min(limit, caller.max_priority)
        if not -limit <= priority <= highest:
            raise InvalidField("priority", f"priority: must be a whole number from {-limit} to {highest}.")

    async def _save_path(self, caller: Caller, request: VideoRequest, uid: str, field_name: str) -> str:
        outputs = self.outputs_of(caller)
        if not request.save_result_path:
            return outputs.public_path(outputs.default(request.task_id or uid))
        place = await asyncio.to_thread(outputs.resolve, request.save_result_path, field_name)
        return outputs.public_path(place)

    async def _check_disk(self) -> None:
        if await self.free_disk.bytes() < self.settings.limits.min_free_bytes:
            raise DiskLow("The service is low on disk space and takes no new task; try again later.")

    async def _new_task(
        self, caller: Caller, submission: Submission, planned: Plan, uid: str, save_path: str
    ) -> NewTask:
        sent = submission.request.model_dump(exclude_unset=True)
        digest = ""
        if submission.idempotency_key is not None:
            digest = await asyncio.to_thread(_digest, sent, submission.uploads)
        return NewTask(
            uid=uid,
            id=submission.request.task_id or uid,
            model=planned.model,
            spec=planned.spec,
            work=planned.work,
            tokens=planned.tokens,
            save_path=save_path,
            priority=submission.request.priority,
            owner=caller.name,
            notes=(*planned.notes, *submission.notes),
            request=_without_images(sent if submission.echo is None else submission.echo),
            idempotency_key=submission.idempotency_key,
            digest=digest,
        )

    async def _admission(self, caller: Caller, replace: bool) -> Admission:
        queue, max_queued = await self.view.recent(), self.settings.limits.max_queued
        return Admission(
            max_queued=max_queued,
            max_attempts=self.settings.tasks.max_attempts,
            retry_after_s=queue.retry_after_s(max_queued),
            max_queued_own=caller.max_queued,
            own_retry_after_s=queue.own_retry_after_s(caller) if caller.max_queued is not None else 1,
            replace=replace,
        )

    async def _forget_frames(self, new: NewTask) -> None:
        # A submit that is refused, as in a full queue, costs nothing more where it brought none.
        if new.spec.image_key is not None:
            await self._forget_files(new.uid)

    async def _forget_files(self, uid: str) -> None:
        with suppress(OSError):  # the janitor will try again
            await asyncio.to_thread(self.artifacts.delete_task_files, uid, None, None)


def _without_images(sent: Mapping[str, Any]) -> dict[str, Any]:
    """The request as it is kept; an image that came as text is left out, a path or URL is not."""
    kept = dict(sent)
    for name in sent.keys() & set(FRAME_FIELDS):
        text = sent[name]
        # Base64 has no full stop; the names of image files and of hosts do.
        if text and (len(text) > MAX_PATH_CHARS or text.startswith("data:") or "." not in text):
            kept[name] = f"({len(text)} characters left out)"
    return kept


def _digest(sent: Mapping[str, Any], uploads: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for part in (
        json.dumps(sent, sort_keys=True).encode(),
        *(uploads.get(name, b"") for name in FRAME_FIELDS),
    ):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
