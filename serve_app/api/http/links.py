"""Links of the OpenAPI document: which operations can follow an answer, and what they take from it."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from fastapi.routing import APIRoute

Answers: TypeAlias = dict[int | str, dict[str, Any]]
"""Documented answers of a route, by status."""

TASK_IN_PATH = "$request.path.task_id"
"""The task that the request named in its path."""

_UNNAMED_TAGS = frozenset({"tasks", "files", "service"})
"""Tags of the native surface, whose operations are called by their own names alone."""


def operation_id(route: APIRoute) -> str:
    """Return a route's id in the document: ``status``, ``openai_create``, ``lightx2v_local_generate``."""
    surfaces = [str(tag) for tag in route.tags if tag not in _UNNAMED_TAGS]
    first = route.path_format.split("/")[1]
    if first != "v1" and len(surfaces) == 1 and first != surfaces[0]:
        surfaces.insert(0, first)
    return "_".join([*surfaces, route.name])


def link(operation: str, description: str, *, body: Any = None, **parameters: str) -> dict[str, Any]:
    """Return the link to an operation by its id.

    ``parameters`` and ``body`` are runtime expressions of OpenAPI, such as ``$response.body#/task_id``.
    """
    found: dict[str, Any] = {"operationId": operation, "description": description}
    if parameters:
        found["parameters"] = parameters
    if body is not None:
        found["requestBody"] = body
    return found


def linked(answers: Answers, links: Mapping[str, Mapping[str, Any]], *statuses: int) -> Answers:
    """Return the answers of a route with these links on those of the statuses, by default on 200."""
    found = dict(answers)
    for status in statuses or (200,):
        found[status] = {**answers[status], "links": dict(links)}
    return found
