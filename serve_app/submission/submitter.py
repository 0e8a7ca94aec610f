"""Submitter of orders: plans a task, stores its frames, and commits it."""

import asyncio
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from serve_app.errors import DiskLow, FileNotFound, ServiceError, StoreUnavailable, TaskNotFound
from serve_app.files.artifacts import Artifacts
from serve_app.files.free_disk import FreeDisk
from serve_app.queue.snapshot import QueueSnapshot
from serve_app.queue.view import QueueView
from serve_app.store.task_store import TaskStore
from serve_app.submission.callbacks import Callbacks, UploadTargets
from serve_app.submission.clip_intake import ClipIntake, Clips
from serve_app.submission.continuation import FIELD
from serve_app.submission.field_words import FieldWords
from serve_app.submission.frame_intake import FrameIntake, Frames
from serve_app.submission.offer import Offer
from serve_app.submission.plan import Plan, cut_to, plan, shaped
from serve_app.submission.prompt_notes import PromptNotes
from serve_app.submission.request_record import digest, without_pictures
from serve_app.submission.submitted import Submitted
from serve_app.submission.video_order import EarlierVideo, OrderFault, VideoOrder
from serve_app.submission.video_places import VideoPlaces
from serve_app.tasks.acts import Acts
from serve_app.tasks.admission import Admission
from serve_app.tasks.caller import Caller
from serve_app.tasks.continuation import Continuation
from serve_app.tasks.move_log import log_move
from serve_app.tasks.task import NewTask, Task
from serve_app.tasks.webhook import Callback
from serve_app.tracing.tracer import REQUEST, facts_of


class Submitter:
    """Makes tasks of orders."""

    def __init__(
        self,
        *,
        offer: Offer,
        store: TaskStore,
        view: QueueView,
        artifacts: Artifacts,
        free_disk: FreeDisk,
        places: VideoPlaces,
        frames: FrameIntake,
        clips: ClipIntake,
        prompts: PromptNotes,
        callbacks: Callbacks,
        uploads: UploadTargets,
        nudge: Callable[[], None],
        acts: Acts,
    ) -> None:
        """``nudge`` tells the coordinator that there is something to do, at once, and never raises."""
        self._offer = offer
        self._store = store
        self._view = view
        self._artifacts = artifacts
        self._free_disk = free_disk
        self._places = places
        self._frames = frames
        self._clips = clips
        self._prompts = prompts
        self._callbacks = callbacks
        self._uploads = uploads
        self._nudge = nudge
        self._acts = acts
        self._submitting = asyncio.Lock()

    async def submit(
        self, caller: Caller, order: VideoOrder, words: FieldWords, *, replace_same_id: bool = False
    ) -> Submitted:
        """Store a task and return once it is committed. Raises ``ServiceError``, in the surface's words."""
        order = self._offer.by_successor(order)
        planned = await self._plan(caller, order, words)
        return await self._accept(caller, order, words, planned, replace_same_id=replace_same_id)

    async def submit_if_free(
        self, caller: Caller, order: VideoOrder, words: FieldWords, *, replace_same_id: bool = False
    ) -> Submitted | None:
        """Submit only if a replica is free to begin at once, else return None. Raises ``ServiceError``."""
        order = self._offer.by_successor(order)
        planned = await self._plan(caller, order, words)
        # One at a time, so that two requests do not both see the same free replica.
        async with self._submitting:
            queue = await self._view.fresh()
            if not (queue.has_free_replica(planned.model) and queue.may_start(caller, planned.model)):
                return None
            return await self._accept(
                caller, order, words, planned, queue=queue, replace_same_id=replace_same_id
            )

    async def _plan(self, caller: Caller, order: VideoOrder, words: FieldWords) -> Plan:
        try:
            self._offer.check_priority(caller, order.priority)
            source = await self._source(caller, order)
            if not order.reads_files:
                return plan(order, self._offer.models, source)
            return await asyncio.to_thread(plan, order, self._offer.models, source)
        except OrderFault as fault:
            raise words.refusal(fault) from None

    async def _source(self, caller: Caller, order: VideoOrder) -> Task | None:
        """Return the task whose video an order goes on from. Raises ``OrderFault``."""
        source = order.continue_from
        if not isinstance(source, EarlierVideo):
            return None
        try:
            return await self._store.get(caller, source.task_id)
        except TaskNotFound:
            raise OrderFault(FIELD, f"there is no task {source.task_id!r}.") from None

    def _outgoing(
        self, caller: Caller, order: VideoOrder, words: FieldWords
    ) -> tuple[Callback | None, str | None]:
        """Return whom to tell of the task, and where to send its video."""
        try:
            return self._callbacks.of(order, caller.name), self._uploads.of(order)
        except OrderFault as fault:
            raise words.refusal(fault) from None

    async def _accept(
        self,
        caller: Caller,
        order: VideoOrder,
        words: FieldWords,
        planned: Plan,
        *,
        queue: QueueSnapshot | None = None,
        replace_same_id: bool,
    ) -> Submitted:
        """Store a planned task, frames first. ``queue``: its current state, if already known."""
        callback, upload_url = self._outgoing(caller, order, words)
        uid = uuid.uuid4().hex
        save_path = await self._places.of_order(caller, order, words, uid)
        await self._check_disk()
        try:
            planned, input_notes = await self._keep_inputs(order, words, planned, uid)
            continues = await self._kept_video(planned, words, uid)
        except ServiceError:  # perhaps after the first of several inputs
            await self._forget_inputs(uid)
            raise
        spec = planned.spec
        prompt_notes = await self._prompts.of(planned.model, order, spec)
        new = NewTask(
            uid=uid,
            id=order.task_id or uid,
            model=planned.model,
            spec=spec if continues == spec.continues else replace(spec, continues=continues),
            work=planned.work,
            tokens=planned.tokens,
            save_path=save_path,
            priority=order.priority,
            owner=caller.name,
            callback=callback,
            upload_url=upload_url,
            expires_in_s=order.expires_in_s,
            enhance_prompt=self._prompts.is_enhanced(order),
            notes=(*planned.notes, *input_notes, *prompt_notes, *order.notes),
            request=without_pictures(order, words),
            idempotency_key=order.idempotency_key,
            digest="" if order.idempotency_key is None else await asyncio.to_thread(digest, order),
        )
        # A client that hangs up now must not leave it open whether the frames have a row. The janitor
        # removes the frames of a client that hung up before.
        return await asyncio.shield(self._commit(caller, new, queue, replace_same_id=replace_same_id))

    async def _keep_inputs(
        self, order: VideoOrder, words: FieldWords, planned: Plan, uid: str
    ) -> tuple[Plan, tuple[str, ...]]:
        """Store the pictures and videos of an order; return its plan with their keys, and notes on them."""
        if not order.has_files:
            return planned, ()
        pictures = await self._frames.read(order, words)
        clips = await self._clips.read(order, words)
        try:
            if clips.earlier is not None:
                same_model = replace(order, model=planned.model)
                planned = await asyncio.to_thread(plan, same_model, self._offer.models, clips.earlier)
            return await self._keep(order, pictures, clips, planned, uid)
        except OrderFault as fault:
            raise words.refusal(fault) from None

    async def _keep(
        self, order: VideoOrder, pictures: Frames, clips: Clips, planned: Plan, uid: str
    ) -> tuple[Plan, tuple[str, ...]]:
        """Store pictures and videos that have been read. Raises ``ServiceError``, ``OrderFault``."""
        shape = pictures.size or clips.size
        if shape is not None:
            planned = shaped(planned, order, shape)
        frames = await self._frames.keep(pictures, size=(planned.spec.width, planned.spec.height), uid=uid)
        kept = await self._clips.keep(clips, planned.spec, uid=uid)
        if kept.frames is not None:
            planned = cut_to(planned, kept.frames)
        spec = replace(
            planned.spec,
            image_key=frames.first_key,
            last_image_key=frames.last_key,
            reference_keys=frames.reference_keys,
            video_key=kept.video_key,
            mask_key=kept.mask_key,
            continues=kept.continues or planned.spec.continues,
        )
        return replace(planned, spec=spec), (*frames.notes, *kept.notes)

    async def _commit(
        self, caller: Caller, new: NewTask, queue: QueueSnapshot | None, *, replace_same_id: bool
    ) -> Submitted:
        try:
            queue = queue or await self._view.recent()
            new = replace(new, told_s=queue.told_s(new), traceparent=REQUEST.get().traceparent)
            task = await self._store.submit(new, self._admission(caller, queue, replace_same_id))
        except ServiceError:
            await self._forget_frames(new)
            raise
        if task.uid != new.uid:
            await self._forget_frames(new)
            return Submitted(task, queue, is_new=False)
        span = REQUEST.get()
        span.name("submit")
        span.note(facts_of(task))
        self._acts.did(caller, "submit", task_id=task.id, model=task.model)
        log_move("submit", task, work=task.work, priority=task.priority)
        self._nudge()
        return Submitted(task, queue, is_new=True)

    async def _kept_video(self, planned: Plan, words: FieldWords, uid: str) -> Continuation | None:
        """Store the task's video that a planned one goes on from, which may be deleted before the run."""
        going_on = planned.spec.continues
        if going_on is None or planned.source is None:
            return going_on
        try:
            key = await asyncio.to_thread(self._artifacts.link_video, uid, planned.source)
        except (FileNotFound, OSError):
            raise words.refusal(OrderFault(FIELD, "that video is no longer kept.")) from None
        return replace(going_on, key=key)

    async def _check_disk(self) -> None:
        if await self._free_disk.is_low():
            raise DiskLow("The service is low on disk space and takes no new task; try again later.")

    def _admission(self, caller: Caller, queue: QueueSnapshot, replace: bool) -> Admission:
        max_queued = self._offer.limits.max_queued
        return Admission(
            max_queued=max_queued,
            max_attempts=self._offer.max_attempts,
            retry_after_s=queue.retry_after_s(max_queued),
            max_queued_own=caller.max_queued,
            own_retry_after_s=queue.own_retry_after_s(caller) if caller.max_queued is not None else 1,
            replace=replace,
        )

    async def _forget_frames(self, new: NewTask) -> None:
        # A refused submit without pictures, as in a full queue, costs nothing more.
        if new.spec.has_inputs:
            await self._forget_inputs(new.uid)

    async def _forget_inputs(self, uid: str) -> None:
        with suppress(OSError, StoreUnavailable):  # the janitor will try again
            await asyncio.to_thread(self._artifacts.delete_task_files, uid, None, None)
