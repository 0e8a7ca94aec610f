"""Routes whose handlers are called with no more ado than their parameters take."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from enum import Enum
from inspect import iscoroutinefunction
from typing import Any

from fastapi import APIRouter
from fastapi._compat import ModelField
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic_core import PydanticUndefined as Undefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from serve_app.api.http.links import operation_id
from serve_app.api.http.route_table import RouteTable

_UNREAD = (
    "body_params",
    "cookie_params",
    "websocket_param_name",
    "http_connection_param_name",
    "response_param_name",
    "background_tasks_param_name",
    "security_scopes_param_name",
)
"""What FastAPI would give a handler, and these routes do not."""
_NONE: tuple[Match, Scope] = (Match.NONE, {})


@dataclass(frozen=True, slots=True)
class _Parameter:
    """A parameter of a route, which is one text: the name that it is sent under, and how it is read."""

    name: str
    alias: str
    default: Any
    """``Undefined`` where it has to be there."""
    validate: Callable[..., tuple[Any, list[dict[str, Any]]]]

    @classmethod
    def of(cls, field: ModelField) -> "_Parameter":
        """Return what FastAPI found of a handler's parameter, looked up once instead of in each request."""
        return cls(field.name, field.alias, field.default, field.validate)

    def read(self, sent: Mapping[str, Any]) -> Any:
        """Return the value among those that were sent. Raises ``RequestValidationError``."""
        text = sent.get(self.alias)
        if text is None and self.default is not Undefined:
            return self.default
        value, errors = self.validate(text, loc=(self.alias,))
        if errors:
            raise RequestValidationError(errors)
        return value


class ServedRoute(APIRoute):
    """A route that is found in a table, and whose handler reads the body and writes the response itself.

    FastAPI documents it and makes the checks of its parameters. In place of FastAPI's general way, which for
    each request walks through a graph of dependencies, a dependency is a coroutine of the request alone.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """Raises ``TypeError`` for a handler or a dependency that needs more."""
        super().__init__(path, endpoint, **options)
        self.table: RouteTable | None = None
        """The table of the application; None before there is one."""
        needs = self.dependant
        if not iscoroutinefunction(endpoint) or any(getattr(needs, name) for name in _UNREAD):
            raise TypeError(f"{endpoint.__name__}: a handler is a coroutine that takes the request")
        self._provided = [_of_the_request(each) for each in needs.dependencies]
        self._of_path = [_Parameter.of(field) for field in needs.path_params]
        self._of_query = [_Parameter.of(field) for field in needs.query_params]
        self._of_headers = [_Parameter.of(field) for field in needs.header_params]

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return whether a request is for this route, and what its path says."""
        # Asked of each route in turn: by Serve's replica for the name of the path, then by the router.
        if self.table is not None and id(self) not in self.table.at(scope).ids:
            return _NONE
        return super().matches(scope)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Raises ``RequestValidationError``, or what the handler raises."""
        if scope["method"] not in (self.methods or ()):
            raise HTTPException(405)
        request = Request(scope, receive, send)
        response = await self.endpoint(**self._parameters(request), **await self._dependencies(request))
        await response(scope, receive, send)

    def _parameters(self, request: Request) -> Mapping[str, Any]:
        values: dict[str, Any] = {}
        for parameter in self._of_path:
            values[parameter.name] = parameter.read(request.path_params)
        for parameter in self._of_query:
            values[parameter.name] = parameter.read(request.query_params)
        for parameter in self._of_headers:
            values[parameter.name] = parameter.read(request.headers)
        if self.dependant.request_param_name is not None:
            values[self.dependant.request_param_name] = request
        return values

    async def _dependencies(self, request: Request) -> Mapping[str, Any]:
        return {name: await provide(request) for name, provide in self._provided}


def served_router(
    *, tags: Sequence[str | Enum] = (), prefix: str = "", in_document: bool = True
) -> APIRouter:
    """Return a router of such routes, which the document names by ``operation_id``."""
    return APIRouter(
        prefix=prefix,
        tags=list(tags),
        include_in_schema=in_document,
        generate_unique_id_function=operation_id,
        route_class=ServedRoute,
    )


def of_one_application(routes: Sequence[BaseRoute]) -> list[BaseRoute]:
    """Return routes that no other application has, to be told its table."""
    return [copy(route) if isinstance(route, ServedRoute) else route for route in routes]


def table_of(routes: Sequence[BaseRoute]) -> RouteTable:
    """Make the table of an application's routes, and have them look into it."""
    table = RouteTable(routes)
    for route in routes:
        if isinstance(route, ServedRoute):
            route.table = table
    return table


def _of_the_request(dependency: Dependant) -> tuple[str, Callable[[Request], Awaitable[Any]]]:
    provide, name = dependency.call, dependency.name
    assert provide is not None and name is not None
    is_plain = not (dependency.dependencies or dependency.path_params or dependency.query_params)
    if not (iscoroutinefunction(provide) and is_plain and dependency.request_param_name):
        raise TypeError(f"{provide.__name__}: a dependency is a coroutine of the request alone")
    return name, provide
