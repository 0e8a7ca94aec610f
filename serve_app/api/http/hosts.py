"""The host names that a request may be addressed to, which ends DNS rebinding.

A page of another site can have its own name resolve to this machine and then reads the service as if it were
the page's own. It cannot do so with a name that public DNS does not have, nor with an address.
"""

import socket
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

ANY_HOST = "*"
_REMEMBERED = 64
"""Headers of which it is remembered whether they are allowed: nearly all requests have one of a few."""
_NOT_IN_PUBLIC_DNS = (".localhost", ".local", ".internal", ".svc", ".lan", ".home.arpa", ".test")
"""Endings of names that nobody can register (RFC 6761, RFC 8375, ICANN's ``internal``, Kubernetes)."""


class AllowedHosts:
    """Rule for the ``Host`` header: local names and addresses always, others where they are listed."""

    def __init__(self, listed: Sequence[str], *, others_have_keys: bool) -> None:
        """``listed``: names, ``*.example.com`` for all names below one, or ``*`` for any.

        ``others_have_keys``: without a list every name is allowed, since requests need an API key, which a
        page of another site does not have.
        """
        self._names = frozenset(name.lower() for name in listed if not name.startswith("*"))
        self._endings = tuple(name[1:].lower() for name in listed if name.startswith("*."))
        self._any = ANY_HOST in listed or (others_have_keys and not listed)
        self._own = socket.gethostname().lower()  # not the one in DNS, which would be asked at each start
        self._found = lru_cache(_REMEMBERED)(self._find)

    def allows(self, host: str) -> bool:
        """Return whether a request with this ``Host`` header is for this service."""
        return self._found(host)

    def _find(self, host: str) -> bool:
        if self._any:
            return True
        name = host_name(host)
        if name is None:
            return False
        return (
            "." not in name
            or name == self._own
            or name in self._names
            or name.endswith((*_NOT_IN_PUBLIC_DNS, *self._endings))
            or _is_address(name)
        )


def host_name(host: str) -> str | None:
    """Return the name or address in a ``Host`` header in lower case, None for one that makes no sense."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises for one that is no number
    except ValueError:
        return None
    if parts.netloc != host or "@" in host or not parts.hostname:
        return None
    return parts.hostname.rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True
