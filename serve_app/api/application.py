"""Puts the HTTP service together. Knows nothing of Ray, so that tests run it as it is."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI

from serve_app.api.http import api_document as openapi
from serve_app.api.http.auth import KeyGate, is_open
from serve_app.api.http.body_limit import BodyLimit
from serve_app.api.http.refusals import CrashGuard, install_refusals
from serve_app.api.http.slashes import TrailingSlash
from serve_app.api.lightx2v.local import local_router
from serve_app.api.native.routes import native_router
from serve_app.api.native.service import package_version, service_router
from serve_app.api.web.docs_page import install_docs
from serve_app.config.settings import AppSettings
from serve_app.files.artifacts import LocalArtifacts
from serve_app.files.output_paths import OutputPaths
from serve_app.media.image_intake import ImageIntake
from serve_app.media.url_fetch import UrlFetch
from serve_app.queue.view import QueueView
from serve_app.store.database import Database
from serve_app.store.fleet import Fleet
from serve_app.store.task_store import TaskStore
from serve_app.submission.frame_intake import FrameIntake
from serve_app.submission.free_disk import FreeDisk
from serve_app.submission.task_service import TaskService
from serve_app.tasks.task import Task

_BODY_SLACK_BYTES = 1_000_000
"""What a request may hold besides its image."""

_MISSED_HEARTBEATS = 3
"""A replica that missed as many does not count any more."""


def build_api(
    settings: AppSettings, nudge: Callable[[], None], on_cancelled: Callable[[Task], None]
) -> FastAPI:
    """The whole HTTP service over the store that ``settings`` name; its lifespan opens and closes that.

    ``nudge`` is called after each committed submit and cancel, ``on_cancelled`` with each task that was
    cancelled. Both must return at once and never raise.
    """
    database = Database(settings.store_url)
    service = _service(settings, database, nudge, on_cancelled)

    @asynccontextmanager
    async def lifespan(_api: FastAPI) -> AsyncIterator[None]:
        await database.migrate()
        try:
            yield
        finally:
            await database.close()

    api = FastAPI(
        title="Wan Serve",
        summary="Text and images to videos, with Wan models on any number of GPUs.",
        version=package_version(),
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    install_refusals(api)
    install_docs(api)
    for router in (native_router(service), local_router(service), service_router(service)):
        api.include_router(router)
    if settings.keys:
        _document_keys(api)
    # The last one added is the outermost. Base64 makes an image a third longer.
    api.add_middleware(BodyLimit, max_bytes=settings.limits.max_image_bytes * 4 // 3 + _BODY_SLACK_BYTES)
    api.add_middleware(KeyGate, keys=settings.keys)
    api.add_middleware(TrailingSlash)
    api.add_middleware(CrashGuard)
    return api


def _document_keys(api: FastAPI) -> None:
    document = api.openapi()  # FastAPI makes it once and keeps it
    openapi.add_keys(document, is_open)


def _image_intake(settings: AppSettings) -> ImageIntake:
    limits = settings.limits
    return ImageIntake(
        max_image_bytes=limits.max_image_bytes,
        max_image_pixels=limits.max_image_pixels,
        input_roots=settings.input_roots,
        url_fetch=UrlFetch(limits.max_image_bytes) if settings.allow_image_urls else None,
    )


def _service(
    settings: AppSettings,
    database: Database,
    nudge: Callable[[], None],
    on_cancelled: Callable[[Task], None],
) -> TaskService:
    store, fleet = TaskStore(database), Fleet(database)
    silence_s = _MISSED_HEARTBEATS * settings.tasks.heartbeat_s
    outputs = OutputPaths(settings.outputs, settings.output_roots)
    artifacts = LocalArtifacts(outputs, settings.data_dir)
    return TaskService(
        settings=settings,
        store=store,
        fleet=fleet,
        view=QueueView(store, fleet, settings.shares, seen_within_s=silence_s),
        artifacts=artifacts,
        free_disk=FreeDisk(artifacts.free_bytes),
        outputs=outputs,
        frames=FrameIntake(_image_intake(settings), artifacts),
        nudge=nudge,
        on_cancelled=on_cancelled,
    )
