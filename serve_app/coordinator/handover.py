"""The handover of a service to a newer one on its database, and back: what runs ends or is handed back."""

import logging
import time
from collections.abc import Awaitable, Callable

from serve_app.store.run_ledger import RunLedger

_logger = logging.getLogger("ray.serve")


class Handover:
    """Lets the runs of a service that does not lead go on for ``patience_s`` seconds, then hands them back.

    The service is ready to lead once a replica of each model in ``awaited`` has loaded it. ``want_back``:
    has the run of a uid and attempt handed back; called again until it is.
    """

    def __init__(
        self,
        ledger: RunLedger,
        want_back: Callable[[str, int], Awaitable[None]],
        awaited: set[str],
        *,
        patience_s: float,
    ) -> None:
        self._ledger = ledger
        self._want_back = want_back
        self._awaited = awaited
        self._patience_s = patience_s
        self._led = ledger.seat.leads
        self._since = time.monotonic()

    def loaded(self, model: str) -> None:
        """Record that a replica has loaded the model."""
        self._awaited.discard(model)

    async def look(self) -> None:
        """Say that the service lives, and see whether it leads; call each second. Raises ``Superseded``."""
        seat = await self._ledger.keep_seat(is_ready=not self._awaited)
        if seat.leads is not self._led:
            self._led, self._since = seat.leads, time.monotonic()
            words = "leads" if seat.leads else "is not the one that leads any more: what runs may end here"
            _logger.info("this service (generation %d) %s", seat.generation, words)
        if not seat.leads and time.monotonic() - self._since >= self._patience_s:
            for uid, attempt in await self._ledger.running():
                await self._want_back(uid, attempt)
