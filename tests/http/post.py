"""A service whose couriers are the test's own, with a clock that stands still."""

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from serve_app.api.native.task_document import message_document
from serve_app.media.public_http import PublicHttp, public_or_in
from serve_app.store.delivery_ledger import DeliveryLedger
from serve_app.store.run_ledger import RunLedger
from serve_app.store.upload_ledger import UploadLedger
from serve_app.tasks.upload import Upload
from serve_app.tasks.webhook import Delivery, DeliveryState
from serve_app.tracing.task_spans import NO_SPANS, TaskSpans
from serve_app.webhooks.courier import Courier
from serve_app.webhooks.sender import Sender
from serve_app.webhooks.uploader import Uploader
from tests.http.http_service import HttpService

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
WEBHOOKS = {"secrets": [SECRET], "networks": ["127.0.0.0/8"], "public_url": "https://video.example/wan"}
DEADLINE_S = 20


@dataclass
class Post:
    """A service whose coordinator's courier is the test's own, with a clock that stands still."""

    service: HttpService
    attempts: list[DeliveryState] = field(default_factory=list)
    """What each recorded attempt came to."""
    spans: TaskSpans = NO_SPANS
    now: float = field(default_factory=lambda: time.time() + 60)
    """A minute ahead, so that whatever the test makes is due."""

    def __post_init__(self) -> None:
        self.courier = self.courier_of(self.service.ledger)
        self.uploads = self.uploads_of(self.service.ledger)

    def courier_of(self, ledger: RunLedger, *, timeout_s: float = 10.0) -> Courier[Delivery]:
        config = self.service.settings
        http = PublicHttp(is_allowed=public_or_in(config.webhooks.networks))
        describe = partial(message_document, root_path=config.webhooks.public_url)
        sender = Sender(http, config.webhook_secrets, describe, timeout_s=timeout_s)
        deliveries = DeliveryLedger(self.service.database, ledger.epoch)
        return Courier(
            deliveries, sender, on_attempt=self.attempts.append, clock=lambda: self.now, spans=self.spans
        )

    def uploads_of(self, ledger: RunLedger, *, timeout_s: float = 10.0) -> Courier[Upload]:
        config, service = self.service.settings, self.service
        networks = config.uploads.networks if config.uploads else ()
        http = PublicHttp(is_allowed=public_or_in(networks)) if config.uploads else None
        uploader = Uploader(http, service.artifacts, timeout_s=timeout_s)
        return Courier(
            UploadLedger(service.database, ledger.epoch),
            uploader,
            on_attempt=self.attempts.append,
            clock=lambda: self.now,
            noun="upload",
            spans=self.spans,
        )

    async def deliver(self) -> None:
        """Send everything that is due now, videos before messages."""
        async with asyncio.timeout(DEADLINE_S):
            for courier in (self.uploads, self.courier):
                await courier.look()
                await courier.idle()

    async def webhooks(self, task_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.service.status(task_id))["webhooks"]
        return found
