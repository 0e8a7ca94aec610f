"""Protection from other sites' web pages, which a browser lets send requests to any address it reaches."""

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.api.http.hosts import AllowedHosts
from serve_app.api.http.refusals import refusal
from serve_app.api.http.route_table import RouteTable
from serve_app.errors import HostNotAllowed, OtherSite

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_SAME_SITE = frozenset({"same-origin", "none"})
"""Values of ``Sec-Fetch-Site`` for the service's own pages, and for what a person typed or opened."""
_FOREIGN_HOST = "This host name is not one of this service's; an operator can add it to allowed_hosts."
_FOREIGN_PAGE = "A page of another site may change nothing here; an operator can add it to allowed_origins."
_DEFAULT_PORTS = {"http": 80, "https": 443}


class SiteGate:
    """Middleware that refuses requests to a foreign ``Host``, and changes that another site's page asks for.

    A browser says where a request comes from, in ``Sec-Fetch-Site``, ``Origin`` and ``Referer``, and no page
    can change that. A client that sends none of them is no page and is not touched.
    """

    def __init__(
        self, app: ASGIApp, hosts: AllowedHosts, origins: Collection[str], table: RouteTable
    ) -> None:
        """``origins``: sites whose pages may do everything."""
        self._app = app
        self._hosts = hosts
        self._origins = frozenset(origins)
        self._table = table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if host and not self._hosts.allows(host):
            await refusal(HostNotAllowed(_FOREIGN_HOST))(scope, receive, send)
        elif self._changes(scope) and self._is_of_another_site(headers, host):
            await refusal(OtherSite(_FOREIGN_PAGE))(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _changes(self, scope: Scope) -> bool:
        return scope["method"] not in _SAFE_METHODS or self._table.at(scope).get_changes

    def _is_of_another_site(self, headers: Headers, host: str) -> bool:
        origin = headers.get("origin")
        if origin in self._origins:
            return False
        site = headers.get("sec-fetch-site")
        if site is not None:
            return site not in _SAME_SITE
        source = origin or headers.get("referer")
        return source is not None and not _is_at(source, host)


def _is_at(source: str, host: str) -> bool:
    """Return whether an address, such as an origin, is of the host that a request was sent to."""
    try:
        theirs, ours = urlsplit(source), urlsplit(f"//{host}")
        default = _DEFAULT_PORTS.get(theirs.scheme)
        # Where a proxy ends TLS the request carries no port, and the page's scheme has its default.
        same_port = (theirs.port or default) == (ours.port or default)
    except ValueError:
        return False
    return theirs.hostname is not None and theirs.hostname == ours.hostname and same_port
