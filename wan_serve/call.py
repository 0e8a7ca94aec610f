"""A request to the service, and what its answer means: all that both clients have in common."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import quote
from uuid import uuid4

import httpx

from wan_serve.errors import Refused, Unreachable
from wan_serve.order import body
from wan_serve.task import Task, TaskPage

Outcome: TypeAlias = httpx.Response | httpx.TransportError

_LONGEST_PAUSE_S = 120.0
_LONGEST_BACKOFF_S = 30.0
_PASSING = frozenset({429, 502, 503, 504})
"""Statuses that another try may change."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request. Every call may be repeated: a submit has an idempotency key of its own."""

    method: str
    path: str
    json: Mapping[str, Any] | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


def submit(prompt: str, fields: Mapping[str, Any]) -> Call:
    """Return the call that submits a video."""
    return Call("POST", "/v1/tasks/video", json=body(prompt, fields), headers=_key())


def again(task_id: str, changes: Mapping[str, Any]) -> Call:
    """Return the call that submits an earlier task's video again."""
    sent = {"task_id": task_id, **body("", changes)}
    return Call("POST", "/v1/tasks/video/again", json=sent, headers=_key())


def of_task(
    task_id: str, rest: str = "", *, method: str = "GET", sent: Mapping[str, Any] | None = None
) -> Call:
    """Return a call about one task. Raises ``ValueError`` for what would be another path."""
    if not task_id or task_id in (".", "..", "all", "queue", "video"):
        raise ValueError(f"{task_id!r} is no task id")
    return Call(method, f"/v1/tasks/{quote(task_id, safe='')}{rest}", json=sent)


def task_of(answer: httpx.Response) -> Task:
    """Read a task. Raises ``Unreachable`` if the answer is no task."""
    try:
        return Task.of(answer.json())
    except (KeyError, TypeError, ValueError):
        raise strange(answer) from None


def page_of(answer: httpx.Response) -> TaskPage:
    """Read a page of tasks. Raises ``Unreachable`` if the answer is no page."""
    try:
        document = answer.json()
        tasks = tuple(Task.of(task) for task in document["tasks"])
        return TaskPage(tasks, bool(document["has_more"]))
    except (KeyError, TypeError, ValueError):
        raise strange(answer) from None


def text_at(answer: httpx.Response, name: str) -> str:
    """Return a text of the answer's object. Raises ``Unreachable`` if there is none."""
    try:
        return str(answer.json()[name])
    except (KeyError, TypeError, ValueError):
        raise strange(answer) from None


def require_success(outcome: Outcome, base_url: httpx.URL | str) -> httpx.Response:
    """Return the answer. Raises ``Refused`` or ``Unreachable``."""
    if isinstance(outcome, httpx.TransportError):
        # Not its text, which may quote a header.
        raise Unreachable(f"No service answers at {base_url}.") from outcome
    if outcome.is_success or outcome.status_code == 204:
        return outcome
    raise _refusal(outcome)


def strange(answer: httpx.Response) -> Unreachable:
    """Return the error for an answer that is not this API's."""
    return Unreachable(f"What answers at {answer.url} is no Wan Serve of this version.")


class Attempts:
    """The tries of one call: how long to wait before the next one, and when to give up."""

    def __init__(self, retries: int) -> None:
        self._left = retries
        self._backoff_s = 0.5

    def pause_after(self, outcome: Outcome) -> float | None:
        """Return the seconds to wait before another try, None if this outcome stands."""
        is_passing = isinstance(outcome, httpx.TransportError) or outcome.status_code in _PASSING
        if not is_passing or self._left <= 0:
            return None
        self._left -= 1
        asked = None if isinstance(outcome, httpx.TransportError) else retry_after_s(outcome)
        if asked is not None:
            return asked if asked <= _LONGEST_PAUSE_S else None
        pause = self._backoff_s * random.uniform(0.5, 1.0)
        self._backoff_s = min(2 * self._backoff_s, _LONGEST_BACKOFF_S)
        return pause

    def renew(self, retries: int) -> None:
        """Begin to count anew, once something came through."""
        self._left = retries
        self._backoff_s = 0.5


def retry_after_s(answer: httpx.Response) -> float | None:
    """Return the seconds that the answer asks to wait, None if it asks for none."""
    text = answer.headers.get("retry-after", "")
    return float(text) if text.isdecimal() else None


def _refusal(answer: httpx.Response) -> Refused:
    try:
        document = answer.json()
        detail, code, at = str(document["detail"]), str(document["code"]), document.get("field")
    except (KeyError, TypeError, ValueError):
        detail, code, at = f"The service answered with HTTP {answer.status_code}.", "", None
    return Refused(
        detail, status=answer.status_code, code=code, field=at, retry_after_s=retry_after_s(answer)
    )


def _key() -> Mapping[str, str]:
    return {"Idempotency-Key": uuid4().hex}


class EventLines:
    """The lines of a stream of server-sent events, put together to tasks."""

    def __init__(self) -> None:
        self.last_id: str | None = None
        """The id of the last event, from which a new stream goes on."""
        self._id: str | None = None
        self._data: list[str] = []

    @property
    def headers(self) -> Mapping[str, str]:
        """What a request sends to go on where this stream broke."""
        return {} if self.last_id is None else {"Last-Event-ID": self.last_id}

    def begin(self) -> None:
        """Forget the half of an event that a stream broke in."""
        self._id, self._data = None, []

    def take(self, line: str) -> Task | None:
        """Read a line; return the task that it completes, if it does. Raises ``ValueError``."""
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            self._id = value
        elif name == "data":
            self._data.append(value)
        elif not line and self._data:
            task = Task.of(json.loads("\n".join(self._data)))
            self.last_id = self._id or self.last_id
            self.begin()
            return task
        return None
