"""The check of the URL at which a client wants to be told of its task."""

import ipaddress
from collections.abc import Callable

from serve_app.media.public_http import Address, BadUrl, checked_url
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
        try:
            host = checked_url(order.callback_url).host
        except BadUrl as error:
            raise OrderFault("callback_url", f"{error}.") from None
        if not self._may_be_asked(host):
            raise OrderFault("callback_url", "must lead to a public address.")
        return Callback(order.callback_url, _events(order))

    def _may_be_asked(self, host: str) -> bool:
        try:
            return self._is_allowed(ipaddress.ip_address(host))
        except ValueError:
            return True  # a name


def _events(order: VideoOrder) -> tuple[EventType, ...]:
    wanted = order.callback_events or FINAL_EVENTS
    known = {str(event) for event in EventType}
    if not known >= set(wanted):
        raise OrderFault("callback_events", f"must be of {', '.join(sorted(known))}.")
    return tuple(EventType(word) for word in dict.fromkeys(wanted))
