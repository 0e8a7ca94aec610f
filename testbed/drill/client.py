"""A client that never gives up: it repeats every request that is not answered."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import httpx

from testbed.drill.checker import Checker
from testbed.drill.follower import follow
from testbed.drill.receiver import hook_of, upload_of

OF_ONE, OF_ALL = "of one task", "of all tasks"
"""The followers of each task."""

_PAUSE_S = 0.1
_MOST_PAUSE_S = 2.0
"""Longest wait before a refused submit is sent again, whatever ``Retry-After`` asks for."""
_TIMEOUT_S = 30.0
"""Longer than the service waits for a database that says nothing, so that its own answer is heard."""
_SMALL = {"width": 64, "height": 64, "num_frames": 5}


@dataclass(frozen=True)
class Work:
    """What a drill's tasks ask for."""

    steps: tuple[int, int]
    """The least and the most of a task."""
    models: tuple[str, ...] = ("paced",)
    """Those that tasks are for, in turn."""
    image: str = ""
    """First frame of every third task; empty: all are made from text."""
    uploads: bool = False
    """Whether every third task sends its video to the client's storage."""


@dataclass
class Submits:
    """How submits were answered."""

    acknowledged_at: list[float] = field(default_factory=list)
    """By ``time.monotonic``."""
    refused: int = 0
    """Those answered by a 503."""
    unadvised: int = 0
    """Of those, the ones without a ``Retry-After`` of a second or more."""
    unanswered: int = 0
    """Those of which nothing came back, in half a minute or before a connection broke."""


class Client:
    """The drill's client: submits tasks, cancels a few of them, and tells the checker each answer."""

    def __init__(
        self,
        url: Callable[[], str],
        checker: Checker,
        random: Random,
        receiver: str,
        work: Work,
        submits: Submits,
    ) -> None:
        """``url``: returns where the service is reached now; ``receiver``: the receiver's own; ``submits`` is
        told how submits are answered.
        """
        self._url = url
        self._work = work
        self._receiver = receiver
        self._submits = submits
        limits = httpx.Limits(max_connections=None)
        self._http = httpx.AsyncClient(timeout=_TIMEOUT_S, limits=limits)
        self._checker = checker
        self._random = random

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def submit(self, task_id: str, model: str) -> None:
        """Submit the task for a model, again and again until it is acknowledged."""
        steps = self._random.randint(*self._work.steps)
        body = {"prompt": "a cat", "task_id": task_id, "infer_steps": steps, "model": model, **_SMALL}
        body["callback_url"] = hook_of(self._receiver)
        if self._work.uploads and self._random.random() < 1 / 3:
            body["upload_url"] = upload_of(self._receiver, task_id)
        if self._work.image and self._random.random() < 1 / 3:
            body["image_path"] = self._work.image
        while True:
            answer = await self._send(
                "POST", "/v1/tasks/video", json=body, headers={"Idempotency-Key": task_id}
            )
            if answer is not None and answer.status_code == 200:
                self._submits.acknowledged_at.append(time.monotonic())
                self._checker.acknowledged(task_id)
                if "upload_url" in body:
                    self._checker.awaits_upload(task_id)
                return
            if answer is not None and answer.status_code < 500 and _is_ours(answer):
                assert answer.status_code == 429, answer.text
            await asyncio.sleep(self._pause_after(answer))

    def _pause_after(self, answer: httpx.Response | None) -> float:
        """Note how a submit was turned away; return the seconds until it is sent again."""
        if answer is None:
            self._submits.unanswered += 1
            return _PAUSE_S
        wait = answer.headers.get("retry-after", "")
        wait_s = float(wait) if wait.isdigit() else 0.0
        if answer.status_code == 503:
            self._submits.refused += 1
            self._submits.unadvised += wait_s < 1
        return min(max(wait_s, _PAUSE_S), _MOST_PAUSE_S)

    async def follow(self, task_id: str) -> None:
        """Follow the events of a task to its end, and tell the checker each."""
        await follow(
            self._http, lambda: f"{self._url()}/v1/tasks/{task_id}/events", partial(self._checker.saw, OF_ONE)
        )

    async def follow_all(self) -> None:
        """Follow the events of all tasks, without an end."""
        await follow(self._http, lambda: f"{self._url()}/v1/events", partial(self._checker.saw, OF_ALL))

    async def cancel(self, task_id: str) -> None:
        """Ask once for the task to be cancelled; the status shows whether that was in time."""
        await self._ask("DELETE", f"/v1/tasks/{task_id}")

    async def look(self, task_id: str) -> None:
        """Ask for the status of a task, once, and tell the checker."""
        answer = await self._ask("GET", f"/v1/tasks/{task_id}/status")
        if answer is None:
            return
        if answer.status_code == 404:
            self._checker.unknown(task_id)
        elif answer.status_code == 200:
            self._checker.status(task_id, answer.json())

    async def fetch(self, task_id: str) -> bool:
        """Read the result and tell the checker; return whether the service answered."""
        answer = await self._ask("GET", f"/v1/tasks/{task_id}/result")
        if answer is None or answer.status_code != 200:
            return False
        self._checker.result(task_id, answer.content)
        return True

    async def list(self) -> list[str]:
        """List all tasks, page by page."""
        found: list[str] = []
        while True:
            after = {"after": found[-1]} if found else {}
            answer = await self._ask("GET", "/v1/tasks", params={"limit": 100, **after})
            if answer is None:
                await asyncio.sleep(_PAUSE_S)
                continue
            page = [task["task_id"] for task in answer.json()["tasks"]]
            if not page:
                return found
            found += page

    async def _ask(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        """Return the answer, or None while the service cannot give one of its own."""
        answer = await self._send(method, path, **options)
        return answer if answer is not None and answer.status_code < 500 and _is_ours(answer) else None

    async def _send(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        """Return the answer, whoever gives it; None without one."""
        try:
            return await self._http.request(method, self._url() + path, **options)
        except httpx.TransportError:
            return None


def _is_ours(answer: httpx.Response) -> bool:
    """Return whether the service itself has answered."""
    # proxies in front of it answer in plain text while a part of it restarts
    kind: str = answer.headers.get("content-type", "")
    return kind.startswith(("application/json", "video/"))
