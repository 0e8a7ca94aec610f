"""The checks of the URLs at which a client wants to be told of its task, and to be sent its video."""

from collections.abc import Callable

from serve_app.media.public_http import Address
from serve_app.submission.client_urls import check_client_url
from serve_app.submission.video_order import OrderFault, VideoOrder
from serve_app.tasks.webhook import FINAL_EVENTS, Callback, EventType


class Callbacks:
    """Makes the callback of an order.

    ``has_secret``: whether messages to this owner can be signed. ``is_allowed``: which addresses a receiver
    may have; a name is resolved and checked at each attempt.
    """

    def __init__(self, has_secret: Callable[[str], bool], is_allowed: Callable[[Address], bool]) -> None:
        self._has_secret = has_secret
        self._is_allowed = is_allowed

    def of(self, order: VideoOrder, owner: str) -> Callback | None:
        """Return the order's callback, None without one. Raises ``OrderFault``."""
        if not order.callback_url:
            if order.callback_events:
                raise OrderFault("callback_events", "needs a callback_url beside it.")
            return None
        if not self._has_secret(owner):
            raise OrderFault(
                "callback_url",
                "is not offered, because the service has no webhook secret for this key; poll the task's "
                "status, or follow its events.",
            )
        check_client_url("callback_url", order.callback_url, self._is_allowed)
        return Callback(order.callback_url, _events(order))


class UploadTargets:
    """Checks the upload URLs of orders.

    ``is_allowed``: which addresses a storage may have; a name is resolved and checked at each attempt. None
    where the service sends no videos.
    """

    def __init__(self, is_allowed: Callable[[Address], bool] | None) -> None:
        self._is_allowed = is_allowed

    def of(self, order: VideoOrder) -> str | None:
        """Return the order's upload URL, None without one. Raises ``OrderFault``."""
        if not order.upload_url:
            return None
        if self._is_allowed is None:
            raise OrderFault(
                "upload_url", "is not offered by this service; fetch the video from its result instead."
            )
        check_client_url("upload_url", order.upload_url, self._is_allowed)
        return order.upload_url


def _events(order: VideoOrder) -> tuple[EventType, ...]:
    wanted = order.callback_events or FINAL_EVENTS
    known = {str(event) for event in EventType}
    if not known >= set(wanted):
        raise OrderFault("callback_events", f"must be of {', '.join(sorted(known))}.")
    return tuple(EventType(word) for word in dict.fromkeys(wanted))
