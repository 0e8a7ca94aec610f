"""What a coordinator sends to clients: messages about their tasks, and finished videos to their storage."""

from serve_app.config.settings import AppSettings
from serve_app.files.artifacts import Artifacts
from serve_app.media.public_http import PublicHttp, public_or_in
from serve_app.metrics import ServiceMetrics, UploadMetrics, WebhookMetrics
from serve_app.store.database import Database
from serve_app.store.delivery_ledger import DeliveryLedger
from serve_app.store.upload_ledger import UploadLedger
from serve_app.tasks.upload import Upload
from serve_app.tasks.webhook import Delivery, DeliveryState
from serve_app.tracing.task_spans import TaskSpans
from serve_app.webhooks.courier import Courier
from serve_app.webhooks.message import Describe
from serve_app.webhooks.sender import Sender
from serve_app.webhooks.uploader import Uploader

_MOST_UPLOADS = 16
"""Videos under way at a time: each has a connection and half a megabyte of memory."""
_PART_S = 30.0
"""Seconds that a storage may take for a part of an upload."""


class Outgoing:
    """The couriers of a coordinator, and the records of what they send."""

    def __init__(
        self,
        settings: AppSettings,
        database: Database,
        epoch: int,
        artifacts: Artifacts,
        describe: Describe,
        spans: TaskSpans,
    ) -> None:
        """``describe`` returns the status document of a task, for the messages to its client."""
        self._deliveries = DeliveryLedger(database, epoch)
        self._uploads = UploadLedger(database, epoch)
        self._metrics = UploadMetrics()
        self.messages: Courier[Delivery] = Courier(
            self._deliveries,
            _sender(settings, describe),
            on_attempt=WebhookMetrics().attempted,
            spans=spans,
        )
        self.videos: Courier[Upload] = Courier(
            self._uploads,
            _uploader(settings, artifacts),
            on_attempt=self._uploaded,
            noun="upload",
            most_at_once=_MOST_UPLOADS,
            spans=spans,
        )

    def nudge(self) -> None:
        """Have both look now, after a task has changed."""
        self.messages.nudge()
        self.videos.nudge()

    async def sweep(self) -> None:
        """Delete what is of tasks that are no longer stored, and begin uploads that were missed."""
        await self._uploads.begin_missed()
        await self._uploads.forget()
        await self._deliveries.forget()

    async def measure(self, metrics: ServiceMetrics) -> None:
        """Set the gauges of what is to be sent."""
        metrics.to_send(messages=await self._deliveries.pending(), videos=await self._uploads.pending())

    def _uploaded(self, state: DeliveryState) -> None:
        self._metrics.attempted(state)
        self.messages.nudge()  # one may have waited for it


def _sender(settings: AppSettings, describe: Describe) -> Sender:
    timeout_s = settings.webhooks.timeout_s
    http = PublicHttp(timeout_s, public_or_in(settings.webhooks.networks))
    return Sender(http, settings.webhook_secrets, describe, timeout_s=timeout_s)


def _uploader(settings: AppSettings, artifacts: Artifacts) -> Uploader:
    if settings.uploads is None:
        return Uploader(None, artifacts, timeout_s=_PART_S)
    timeout_s = settings.uploads.timeout_s
    http = PublicHttp(min(_PART_S, timeout_s), public_or_in(settings.uploads.networks))
    return Uploader(http, artifacts, timeout_s=timeout_s)
