"""Dispatch of requests by the table of routes, past the router, which asks one route after the other."""

from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.api.http.noted_send import NotedSend
from serve_app.api.http.refusals import REFUSED, refusal_of
from serve_app.api.http.route_table import RouteTable
from serve_app.api.http.served_route import ServedRoute


class Dispatch:
    """Middleware, the innermost, that calls the route of a request, and refuses what that refuses.

    What has none in the table is the router's: mounted files, and paths where nothing is.
    """

    def __init__(self, app: ASGIApp, table: RouteTable) -> None:
        self._app = app
        self._table = table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Raises what its route raises and is no refusal, or comes too late for one."""
        found = self._found(scope) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        route, of_path = found
        answer = NotedSend(send)
        try:
            await route.handle({**scope, **of_path}, receive, answer)
        except REFUSED as error:
            if answer.has_begun:
                raise
            await refusal_of(error)(scope, receive, send)

    def _found(self, scope: Scope) -> tuple[ServedRoute, Scope] | None:
        """Return a request's route, and what its path says."""
        for route in self._table.at(scope).routes:
            match, of_path = route.matches(scope)
            if match is Match.FULL:
                return (route, of_path) if isinstance(route, ServedRoute) else None
        return None
