"""One attempt at an upload: a PUT of a video to a presigned URL, whose address is checked anew each time."""

import asyncio
import logging
from collections.abc import AsyncIterator

import httpx

from serve_app.errors import FileNotFound, StoreUnavailable
from serve_app.files.artifacts import Artifacts
from serve_app.files.stored_file import StoredFile
from serve_app.media.public_http import BadUrl, NotPublic, PublicHttp, checked_url
from serve_app.store.delivery_ledger import Due
from serve_app.tasks.upload import Upload
from serve_app.tasks.video_output import VideoFormat
from serve_app.webhooks.schedule import Answer, retry_after_s

_MAY_HAVE_EXPIRED = frozenset({400, 401, 403})
_GONE = 410
_AZURE = {"x-ms-blob-type": "BlockBlob"}
_logger = logging.getLogger("ray.serve")


class Uploader:
    """Sends videos. A fault that an answer tells is a sentence without an address.

    S3 and GCS take a PUT as it is. Azure wants a header beside it, which a URL with a shared access signature
    (SAS) cannot hold.
    """

    def __init__(self, http: PublicHttp | None, artifacts: Artifacts, *, timeout_s: float) -> None:
        """``http``: None where uploads are not offered any more; ``timeout_s``: the longest attempt."""
        self._http = http
        self._artifacts = artifacts
        self._timeout_s = timeout_s

    async def send(self, due: Due[Upload], *, at: float) -> Answer:
        """Make an attempt. Never raises ``Exception``."""
        if self._http is None:
            return Answer(None, "The service does not send videos any more.", is_last=True)
        try:
            video = await asyncio.to_thread(self._artifacts.find, due.task.artifact or "")
            async with asyncio.timeout(self._timeout_s):
                return await self._put(self._http, due.delivery.url, video, at)
        except FileNotFound:
            return Answer(None, "The video is not there.")
        except TimeoutError:
            return Answer(None, f"The storage did not take the video within {self._timeout_s:g} s.")
        except BadUrl as error:
            return Answer(None, f"The URL {error}.", is_last=True)
        except NotPublic:
            return Answer(None, "The URL's host has no public address.")
        except StoreUnavailable:
            return Answer(None, "The service could not read the video.")
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError):
            # Their texts may name addresses, so none is passed on.
            return Answer(None, "The storage could not be reached.")
        except Exception:
            # A fault of ours must follow the schedule too, and not be tried again at each look.
            _logger.exception("upload %s could not be made", due.delivery.id)
            return Answer(None, "The video could not be sent; the service's log says more.")

    async def _put(self, http: PublicHttp, text: str, video: StoredFile, at: float) -> Answer:
        url = checked_url(text)
        form = VideoFormat.of_file(video.name)
        headers = {
            "Content-Type": form.media_type if form else "application/octet-stream",
            "Content-Length": str(video.size),
            **(_AZURE if {"sig", "sv"} <= url.params.keys() else {}),
        }
        async with http.request("PUT", url, headers, _parts(video)) as response:
            code = response.status_code
            if httpx.codes.is_success(code):
                return Answer(code)
            wait_s = retry_after_s(response.headers.get("retry-after"), at)
            fault = f"The storage answered with status {code}{_hint(code)}."
            return Answer(code, fault, wait_s, is_last=code == _GONE)


def _hint(code: int) -> str:
    if code in _MAY_HAVE_EXPIRED:
        return "; a presigned URL may have expired"
    return "; redirects are not followed" if httpx.codes.is_redirect(code) else ""


async def _parts(video: StoredFile) -> AsyncIterator[bytes]:
    """Yield the bytes of a video, read in a thread. Raises as its ``chunks`` do."""
    chunks = video.chunks(0, video.size)
    while chunk := await asyncio.to_thread(next, chunks, b""):
        yield chunk
