"""One attempt at a message: a signed POST to an address that is checked anew each time."""

import asyncio
import logging
from collections.abc import Callable, Sequence

import httpx

from serve_app.media.public_http import BadUrl, NotPublic, PublicHttp, checked_url
from serve_app.store.delivery_ledger import Due
from serve_app.tasks.webhook import Delivery
from serve_app.webhooks.message import Describe, body_of, headers_of
from serve_app.webhooks.schedule import Answer, retry_after_s

SecretsOf = Callable[[str], Sequence[bytes]]
"""Returns the secrets of a task's owner; none where the owner has none."""

_logger = logging.getLogger("ray.serve")


class Sender:
    """Sends messages. A fault that an answer tells is a sentence without an address."""

    def __init__(
        self, http: PublicHttp, secrets_of: SecretsOf, describe: Describe, *, timeout_s: float
    ) -> None:
        self._http = http
        self._secrets_of = secrets_of
        self._describe = describe
        self._timeout_s = timeout_s

    async def send(self, due: Due[Delivery], *, at: float) -> Answer:
        """Make an attempt, signed for the time ``at`` in seconds since 1970. Never raises ``Exception``."""
        secrets = self._secrets_of(due.delivery.owner)
        if not secrets:
            return Answer(None, "The service has no webhook secret for this key any more.")
        try:
            body = body_of(due.delivery, self._describe(due.task, due.upload))
            headers = headers_of(due.delivery, body, secrets, at=at)
            async with asyncio.timeout(self._timeout_s):
                return await self._post(due.delivery.url, body, headers, at)
        except TimeoutError:
            return Answer(None, f"The receiver did not answer within {self._timeout_s:g} s.")
        except BadUrl as error:
            return Answer(None, f"The URL {error}.")
        except NotPublic:
            return Answer(None, "The URL's host has no public address.")
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError):
            # Their texts may name addresses, so none is passed on.
            return Answer(None, "The receiver could not be reached.")
        except Exception:
            # A fault of ours must follow the schedule too, and not be tried again at each look.
            _logger.exception("webhook %s could not be made", due.delivery.id)
            return Answer(None, "The message could not be made; the service's log says more.")

    async def _post(self, url: str, body: bytes, headers: dict[str, str], at: float) -> Answer:
        async with self._http.request("POST", checked_url(url), headers, body) as response:
            code = response.status_code
            if httpx.codes.is_success(code):
                return Answer(code)
            wait_s = retry_after_s(response.headers.get("retry-after"), at)
            followed = "; redirects are not followed" if httpx.codes.is_redirect(code) else ""
            return Answer(code, f"The receiver answered with status {code}{followed}.", wait_s)
