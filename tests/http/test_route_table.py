"""What finding a request's route takes: one look-up, whatever else is served."""

from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from ray.serve._private.thirdparty.get_asgi_route_name import get_asgi_route_name
from starlette.routing import Match, compile_path
from starlette.types import Receive, Scope, Send

from serve_app.api.application import SURFACES, Surface, build_api
from serve_app.api.http.route_table import RouteTable, Spot
from serve_app.api.http.served_route import ServedRoute, served_router
from serve_app.api.native.surface import native_surface
from tests.http.http_service import HttpService, settings
from tests.http.route_table import ENDLESS
from tests.http.toy_surface import toy_surface


def application(folder: Path, surfaces: Sequence[Surface] = SURFACES) -> FastAPI:
    return build_api(
        settings(folder),
        lambda: None,
        lambda _: None,
        surfaces,
        on_streams=lambda _: None,
    )


def paths_of(api: FastAPI) -> set[str]:
    """A path of each route."""
    patterns = {context.path_format or "" for context in iter_route_contexts(api.routes)}
    return {
        pattern.format(task_id="beach-1", file_path="outputs/videos/a.mp4", model="demo", path="x.css")
        for pattern in patterns
    }


def test_a_path_has_the_routes_whose_patterns_it_matches(tmp_path: Path) -> None:
    api = application(tmp_path, (*SURFACES, toy_surface))
    table = RouteTable(api.routes)
    paths = paths_of(api) | {"/", "/v1", "/v1/tasks/", "/v1/tasks/a/b/c", "/toy/videos/a", "/docs/assets/x/y"}
    assert len(paths) > 40
    for path in paths:
        matching = [
            context.original_route
            for context in iter_route_contexts(api.routes)
            if compile_path(str(context.path) + ("" if context.methods else "/{path:path}"))[0].match(path)
        ]
        assert list(table.find(path).routes) == matching, path


@pytest.mark.slow
@pytest.mark.asyncio
async def test_a_request_looks_its_route_up_once(
    service: HttpService, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    names: list[str | None] = []
    find = RouteTable.find

    def counted(table: RouteTable, path: str) -> Spot:
        asked.append(path)
        return find(table, path)

    monkeypatch.setattr(RouteTable, "find", counted)

    async def as_ray_calls_it(scope: Scope, receive: Receive, send: Send) -> None:
        # Serve's replica asks for the route's name first, for its metrics.
        scope["root_path"] = "/prefix"
        names.append(get_asgi_route_name(service.api, scope))
        await service.api(scope, receive, send)

    transport = httpx.ASGITransport(as_ray_calls_it)
    async with httpx.AsyncClient(transport=transport, base_url="http://service/prefix") as client:
        for path in sorted(paths_of(service.api) - {ENDLESS, "/docs/assets"}):
            for method in ("GET", "POST", "OPTIONS"):
                asked.clear()
                await client.request(method, path)
                assert asked == [path], (method, path)
    assert "/prefix/v1/tasks/{task_id}/status" in names


@pytest.mark.asyncio
async def test_a_request_is_not_taken_from_route_to_route(
    service: HttpService, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    matches = ServedRoute.matches

    def counted(route: ServedRoute, scope: Scope) -> tuple[Match, Scope]:
        asked.append(route.path)
        return matches(route, scope)

    monkeypatch.setattr(ServedRoute, "matches", counted)
    table = RouteTable(service.api.routes)
    answered = 0
    for path in sorted(paths_of(service.api) - {ENDLESS}):
        routes = table.find(path).routes
        asked.clear()
        await service.client.get(path)
        if all(isinstance(route, ServedRoute) for route in routes):  # all but files, and FastAPI's own
            assert len(asked) <= len(routes), path
            answered += bool(asked)
    assert answered > 25


def test_more_surfaces_cost_a_path_of_another_nothing(tmp_path: Path) -> None:
    alone = application(tmp_path, (native_surface,))
    few, many = RouteTable(alone.routes), RouteTable(application(tmp_path).routes)
    assert len(few.find("/v1/tasks/beach-1/status").routes) == 1
    for path in paths_of(alone):
        assert [each.path for each in few.candidates(path)] == [each.path for each in many.candidates(path)]


def test_a_handler_that_needs_more_than_the_request_is_refused() -> None:
    router = served_router()

    async def reads_a_model(body: dict[str, str]) -> None: ...
    def blocks() -> None: ...

    for handler in (reads_a_model, blocks):
        with pytest.raises(TypeError, match="a coroutine"):
            router.post("/x")(handler)
