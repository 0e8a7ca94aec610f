"""A client that never gives up: it repeats every request that is not answered."""

import asyncio
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import httpx

from testbed.drill.checker import Checker
from testbed.drill.follower import follow

OF_ONE, OF_ALL = "of one task", "of all tasks"
"""The followers of each task."""

_PAUSE_S = 0.1
_TIMEOUT_S = 10.0
_SMALL = {"width": 64, "height": 64, "num_frames": 5}


class Client:
    """The drill's client: submits tasks, cancels a few of them, and tells the checker each answer."""

    def __init__(
        self,
        url: Callable[[], str],
        checker: Checker,
        random: Random,
        callback_url: str,
        steps: tuple[int, int],
    ) -> None:
        """``url``: returns where the service is reached now; ``steps``: the least and the most of a task."""
        self._url = url
        self._steps = steps
        self._callback_url = callback_url
        limits = httpx.Limits(max_connections=None)
        self._http = httpx.AsyncClient(timeout=_TIMEOUT_S, limits=limits)
        self._checker = checker
        self._random = random

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def submit(self, task_id: str) -> None:
        """Submit the task again and again until it is acknowledged."""
        steps = self._random.randint(*self._steps)
        body = {"prompt": "a cat", "task_id": task_id, "infer_steps": steps, **_SMALL}
        body["callback_url"] = self._callback_url
        while True:
            answer = await self._ask(
                "POST", "/v1/tasks/video", json=body, headers={"Idempotency-Key": task_id}
            )
            if answer is not None and answer.status_code == 200:
                self._checker.acknowledged(task_id)
                return
            assert answer is None or answer.status_code == 429, answer.text
            await asyncio.sleep(_PAUSE_S)

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
        try:
            answer = await self._http.request(method, self._url() + path, **options)
        except httpx.TransportError:
            return None
        # proxies in front of it answer in plain text while a part of it restarts
        if answer.status_code >= 500 or not answer.headers.get("content-type", "").startswith(
            ("application/json", "video/")
        ):
            return None
        return answer
