"""Which routes a path is of: looked up once for each request, whoever asks."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from re import Pattern
from typing import Any

from fastapi.routing import RouteContext, iter_route_contexts
from starlette.routing import BaseRoute, compile_path
from starlette.types import Scope

_SPOT = "wan_serve.spot"
_CHANGES = "x-changes-tasks"
_HEAD_SEGMENTS = 3
"""``/v1/tasks`` has three, the first of them empty."""

CHANGING_GET: Mapping[str, Any] = {_CHANGES: True}
"""``openapi_extra`` of a GET route with side effects, which rejects HEAD, since link checkers send it."""


@dataclass(frozen=True, slots=True)
class Spot:
    """What is served at a path."""

    routes: Collection[BaseRoute]
    methods: frozenset[str]
    """Methods that are taken there; none where nothing is served."""
    get_changes: bool
    """Whether a GET there has side effects."""
    ids: frozenset[int]
    """Those of the routes: two routes are compared by much more than which they are."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A route with what it takes."""

    pattern: Pattern[str]
    path: str
    route: BaseRoute
    methods: frozenset[str]
    get_changes: bool

    @property
    def head(self) -> str | None:
        """The first segments of every path of this route; None where they are not fixed."""
        head = _head(self.path)
        return None if "{" in head else head


class RouteTable:
    """The routes of an application by their paths.

    A path without a parameter is found by itself, any other among those with the same first two segments: how
    many other routes there are costs a request nothing.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        entries = [_entry(context) for context in iter_route_contexts(routes)]
        variable = [entry for entry in entries if "{" in entry.path]
        self._of_any = [entry for entry in variable if entry.head is None]
        self._of_head = {
            head: [entry for entry in variable if entry.head in (head, None)]
            for head in {entry.head for entry in variable}
        }
        self._spots: dict[tuple[int, ...], Spot] = {}
        self._fixed = {
            entry.path: _spot(other for other in entries if other.pattern.match(entry.path))
            for entry in entries
            if "{" not in entry.path
        }

    def at(self, scope: Scope) -> Spot:
        """Return what is served at the path of a request."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        found = scope.get(_SPOT)
        if found is None or found[0] != path:
            found = scope[_SPOT] = path, self.find(path)
        spot: Spot = found[1]
        return spot

    def find(self, path: str) -> Spot:
        """Look up what is served at a path."""
        fixed = self._fixed.get(path)
        if fixed is not None:
            return fixed
        matching = [entry for entry in self.candidates(path) if entry.pattern.match(path)]
        key = tuple(map(id, matching))
        if key not in self._spots:
            self._spots[key] = _spot(matching)
        return self._spots[key]

    def candidates(self, path: str) -> Sequence[_Entry]:
        """Return the entries that a path is compared with, where it is not one without a parameter."""
        return self._of_head.get(_head(path), self._of_any)


def _head(path: str) -> str:
    return "/".join(path.split("/", _HEAD_SEGMENTS)[:_HEAD_SEGMENTS])


def _spot(entries: Iterable[_Entry]) -> Spot:
    there = tuple(entries)
    return Spot(
        tuple(entry.route for entry in there),
        frozenset().union(*(entry.methods for entry in there)),
        any(entry.get_changes for entry in there),
        frozenset(id(entry.route) for entry in there),
    )


def _entry(route: RouteContext) -> _Entry:
    path = route.path or "/"
    is_mount = route.methods is None
    if is_mount:
        path = f"{path}/{{path:path}}"
    extra: Mapping[str, Any] = getattr(route, "openapi_extra", None) or {}
    methods = {"GET"} if route.methods is None else set(route.methods)  # what is mounted are files
    get_changes = _CHANGES in extra
    if "GET" in methods and not get_changes:
        methods.add("HEAD")
    return _Entry(
        compile_path(path)[0], path, route.original_route, frozenset(methods | {"OPTIONS"}), get_changes
    )
