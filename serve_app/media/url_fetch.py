"""Fetching of images and videos from the open web."""

import asyncio
from dataclasses import dataclass, field

import httpx

from serve_app.errors import ImageUnreadable, PathForbidden, ServiceError, TooLarge
from serve_app.media.public_http import BadUrl, NotPublic, PublicHttp, checked_url

MAX_REDIRECTS = 3

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class UrlFetch:
    """Reads ``http`` and ``https`` URLs up to ``max_bytes``, within ``timeout_s`` for all redirects together.

    Each redirect is checked as the first URL is.
    """

    max_bytes: int
    timeout_s: float = 10.0
    http: PublicHttp = field(default_factory=PublicHttp)
    noun: str = "image"
    """What refusals call what is fetched."""
    unreadable: type[ServiceError] = ImageUnreadable
    accept: str = "image/jpeg, image/png, image/webp"

    async def read(self, url: str) -> bytes:
        """Fetch the bytes of ``url``.

        Raises ``PathForbidden`` for a host that is not public, ``TooLarge``, and ``unreadable`` for all
        else.
        """
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._follow(url)
        except TimeoutError:
            raise self.unreadable(
                f"The {self.noun} URL did not answer within {self.timeout_s:g} s."
            ) from None
        except BadUrl as error:
            raise self.unreadable(f"The {self.noun} URL {error}.") from None
        except NotPublic:
            raise PathForbidden(f"The {self.noun} URL's host has no public address.") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError):
            # Their texts may name addresses, so none is passed on.
            raise self.unreadable(f"The {self.noun} URL could not be fetched.") from None

    async def _follow(self, url: str) -> bytes:
        target = checked_url(url)
        # A compressed body could unfold past the limit.
        headers = {"Accept": self.accept, "Accept-Encoding": "identity"}
        for _ in range(MAX_REDIRECTS + 1):
            async with self.http.request("GET", target, headers) as response:
                if not (response.status_code in _REDIRECTS and "location" in response.headers):
                    return await self._body(response)
            target = checked_url(str(target.join(response.headers["location"])))
        raise self.unreadable(f"The {self.noun} URL redirects more than {MAX_REDIRECTS} times.")

    async def _body(self, response: httpx.Response) -> bytes:
        if response.status_code != httpx.codes.OK:
            raise self.unreadable(f"The {self.noun} URL answered with status {response.status_code}.")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise self.unreadable(f"The {self.noun} URL answered with a compressed body.")
        if int(response.headers.get("content-length", "0")) > self.max_bytes:
            raise self._too_large()
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > self.max_bytes:
                raise self._too_large()
        return bytes(body)

    def _too_large(self) -> ServiceError:
        return TooLarge(f"The {self.noun} behind the URL is over the limit of {self.max_bytes} bytes.")
