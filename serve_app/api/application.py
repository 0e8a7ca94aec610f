"""Assembly of the HTTP service as a FastAPI application, without Ray, so that tests run the real one."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

from fastapi import APIRouter, FastAPI

from serve_app.api.http.api_document import (
    Refusal,
    add_keys,
    add_refusals,
    add_site_refusals,
    drop_validation_errors,
    finish_document,
)
from serve_app.api.http.auth import KeyGate, is_open
from serve_app.api.http.body_limit import BodyLimit
from serve_app.api.http.cors import Cors
from serve_app.api.http.dispatch import Dispatch
from serve_app.api.http.event_stream import EventStreams
from serve_app.api.http.hosts import AllowedHosts
from serve_app.api.http.methods import Methods
from serve_app.api.http.origin import Origins
from serve_app.api.http.parameters import provide
from serve_app.api.http.refusals import CrashGuard, RefusalShapes, install_refusals
from serve_app.api.http.request_span import RequestSpans
from serve_app.api.http.safe_headers import SafeHeaders
from serve_app.api.http.served_route import of_one_application, table_of
from serve_app.api.http.site_gate import SiteGate
from serve_app.api.http.slashes import TrailingSlash
from serve_app.api.lightx2v.surface import lightx2v_surface
from serve_app.api.native.surface import native_surface
from serve_app.api.openai.refusal import OPENAI_SHAPES, ErrorBody
from serve_app.api.openai.surface import openai_surface
from serve_app.api.web.docs_page import router as docs
from serve_app.api.web.front_page import router as front_page
from serve_app.config.settings import AppSettings
from serve_app.errors import VideoUnreadable
from serve_app.files.artifact_stores import open_artifacts
from serve_app.files.free_disk import FreeDisk
from serve_app.files.output_paths import OutputPaths
from serve_app.media.file_intake import FileIntake
from serve_app.media.image_intake import ImageIntake
from serve_app.media.public_http import public_or_in
from serve_app.media.url_fetch import UrlFetch
from serve_app.media.video_intake import VideoIntake
from serve_app.package_version import package_version
from serve_app.queue.removal import Removal
from serve_app.queue.view import QueueView
from serve_app.store.database import Database, OnTransaction, untimed
from serve_app.store.fleet import Fleet
from serve_app.store.outbox import Outbox
from serve_app.store.pause_book import PauseBook
from serve_app.store.served_models import ServedModels
from serve_app.store.task_store import TaskStore
from serve_app.store.uploads import Uploads
from serve_app.submission.callbacks import Callbacks, UploadTargets
from serve_app.submission.clip_intake import ClipIntake
from serve_app.submission.frame_intake import FrameIntake
from serve_app.submission.offer import Offer
from serve_app.submission.pausing import Pausing
from serve_app.submission.prompt_notes import PromptNotes
from serve_app.submission.submitter import Submitter
from serve_app.submission.task_service import TaskService
from serve_app.submission.video_places import VideoPlaces
from serve_app.tasks.acts import NO_ACTS, Acts
from serve_app.tasks.task import Task
from serve_app.tracing.tracer import UNTRACED, Tracer

Surface: TypeAlias = Callable[[], APIRouter]
"""Factory of the routes of one API surface; the routes receive the task service by dependency injection."""

SURFACES: Sequence[Surface] = (native_surface, lightx2v_surface, openai_surface)
"""All surfaces that are served. A new surface is a folder beside this file and an entry in this list."""

_FINISHERS = (
    drop_validation_errors,
    add_site_refusals,
    partial(add_refusals, refusals=(Refusal, ErrorBody)),
)
_ADD_KEYS = partial(add_keys, is_open=is_open)

_VIDEO_FETCH_S = 30.0
_LOCK_PATIENCE_S = 2.0
"""How long a client waits for a SQLite file that is locked; what ends runs waits for longer."""

_BODY_SLACK_BYTES = 1_000_000
"""Bytes that a request body may have in addition to its largest file."""


def build_api(
    settings: AppSettings,
    nudge: Callable[[], None],
    on_cancelled: Callable[[Task], None],
    surfaces: Sequence[Surface] = SURFACES,
    *,
    on_streams: Callable[[int], None],
    on_transaction: OnTransaction = untimed,
    tracer: Tracer = UNTRACED,
    acts: Acts = NO_ACTS,
) -> FastAPI:
    """Build the HTTP service over the store in ``settings``; the application's lifespan opens and closes it.

    ``nudge`` is called after each committed submit and cancel, ``on_cancelled`` with each cancelled task,
    ``on_streams`` with the number of open event streams whenever it changes, ``on_transaction`` with each
    read and write of the store. All must return at once and never raise. ``tracer`` is told of requests
    that change something, ``acts`` of what the holders of keys do.
    """
    database = Database(settings.store_url, on_transaction=on_transaction, lock_patience_s=_LOCK_PATIENCE_S)

    @asynccontextmanager
    async def lifespan(_api: FastAPI) -> AsyncIterator[None]:
        await database.migrate()
        try:
            yield
        finally:
            await database.close()

    api = _routed(surfaces, lifespan=lifespan)
    service = _service(settings, database, nudge, on_cancelled, acts)
    provide(api, service, EventStreams(on_streams), is_keyed=bool(settings.keys))
    install_refusals(api)
    finish_document(api, [*_FINISHERS, *([_ADD_KEYS] if settings.keys else [])])
    table = table_of(api.routes)
    api.add_middleware(Dispatch, table=table)
    api.add_middleware(Methods, table=table)
    # The last one added is the outermost. Base64 makes a file a third longer.
    api.add_middleware(BodyLimit, max_bytes=Offer.of(settings).max_file_bytes * 4 // 3 + _BODY_SLACK_BYTES)
    api.add_middleware(KeyGate, keys=settings.keys)
    api.add_middleware(Cors, origins=settings.allowed_origins)
    api.add_middleware(
        SiteGate,
        hosts=AllowedHosts(settings.allowed_hosts, others_have_keys=bool(settings.keys)),
        origins=settings.allowed_origins,
        table=table,
    )
    api.add_middleware(TrailingSlash)
    api.add_middleware(SafeHeaders)
    api.add_middleware(CrashGuard)
    api.add_middleware(RefusalShapes, shapes=OPENAI_SHAPES)
    if settings.audit is not None:
        api.add_middleware(Origins)
    if settings.tracing is not None:
        api.add_middleware(RequestSpans, tracer=tracer)
    return api


def published_document() -> dict[str, Any]:
    """Return the OpenAPI document of all surfaces, as a service with API keys has it."""
    api = _routed(SURFACES)
    finish_document(api, [*_FINISHERS, _ADD_KEYS])
    return api.openapi()


def _routed(surfaces: Sequence[Surface], **more: Any) -> FastAPI:
    return FastAPI(
        title="Wan Serve",
        summary="Text and images to videos, with Wan models on any number of GPUs.",
        version=package_version(),
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        # It would ask at each request whether anybody collects them; tracing is our own.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        # An application that includes a router builds all its routes again, at the first request.
        routes=of_one_application(
            [
                *front_page.routes,
                *docs.routes,
                *(route for surface in surfaces for route in surface().routes),
            ]
        ),
        **more,
    )


def _image_intake(settings: AppSettings) -> ImageIntake:
    limits = settings.limits
    return ImageIntake(
        max_image_bytes=limits.max_image_bytes,
        max_image_pixels=limits.max_image_pixels,
        input_roots=settings.input_roots,
        url_fetch=UrlFetch(limits.max_image_bytes) if settings.allow_image_urls else None,
    )


def _video_intake(settings: AppSettings) -> VideoIntake:
    limits = settings.limits
    fetch = UrlFetch(
        limits.max_video_bytes,
        timeout_s=_VIDEO_FETCH_S,
        noun="video",
        unreadable=VideoUnreadable,
        accept="video/mp4, video/webm, video/quicktime, image/gif",
    )
    files = FileIntake(
        limits.max_video_bytes,
        settings.input_roots,
        fetch if settings.allow_image_urls else None,
        noun="video",
        unreadable=VideoUnreadable,
    )
    return VideoIntake(files, max_pixels=limits.max_video_pixels, max_s=limits.max_video_s)


def _service(
    settings: AppSettings,
    database: Database,
    nudge: Callable[[], None],
    on_cancelled: Callable[[Task], None],
    acts: Acts,
) -> TaskService:
    store, fleet = TaskStore(database), Fleet(database)
    outputs = OutputPaths(settings.outputs, settings.output_roots)
    artifacts = open_artifacts(settings)
    offer, places = Offer.of(settings), VideoPlaces(outputs, store)
    disk = FreeDisk(artifacts.free_bytes, settings.limits.min_free_bytes)
    rules, names = settings.tasks, [model.name for model in settings.models]
    view = QueueView(
        store,
        fleet,
        settings.shares,
        seen_within_s=rules.silence_s,
        disk=disk,
        removal=Removal(ServedModels(database), names, after_s=rules.removed_after_s),
    )
    submitter = Submitter(
        offer=offer,
        store=store,
        view=view,
        artifacts=artifacts,
        free_disk=disk,
        places=places,
        frames=FrameIntake(_image_intake(settings), artifacts),
        clips=ClipIntake(_video_intake(settings), artifacts),
        prompts=PromptNotes(settings.models, has_enhancer=settings.prompt_enhancer is not None),
        callbacks=Callbacks(
            lambda owner: bool(settings.webhook_secrets(owner)), public_or_in(settings.webhooks.networks)
        ),
        uploads=UploadTargets(None if settings.uploads is None else public_or_in(settings.uploads.networks)),
        nudge=nudge,
        acts=acts,
    )
    return TaskService(
        offer=offer,
        submitter=submitter,
        store=store,
        outbox=Outbox(database),
        uploads=Uploads(database),
        view=view,
        artifacts=artifacts,
        places=places,
        pausing=Pausing(PauseBook(database), names, nudge, acts),
        nudge=nudge,
        on_cancelled=on_cancelled,
        acts=acts,
    )
