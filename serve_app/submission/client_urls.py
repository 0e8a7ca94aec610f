"""The check of a URL that a client wants something sent to."""

import ipaddress
from collections.abc import Callable

import httpx

from serve_app.media.public_http import Address, BadUrl, checked_url
from serve_app.submission.video_order import OrderFault


def check_client_url(field: str, url: str, is_allowed: Callable[[Address], bool]) -> httpx.URL:
    """Return a client's URL, parsed. ``is_allowed``: which addresses it may have; a name is resolved and
    checked at each attempt. Raises ``OrderFault`` of ``field``.
    """
    try:
        parsed = checked_url(url)
    except BadUrl as error:
        raise OrderFault(field, f"{error}.") from None
    try:
        is_refused = not is_allowed(ipaddress.ip_address(parsed.host))
    except ValueError:
        return parsed  # a name
    if is_refused:
        raise OrderFault(field, "must lead to a public address.")
    return parsed
