"""The client for asyncio."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from wan_serve import call
from wan_serve.call import Attempts, Call, EventLines, Outcome
from wan_serve.download import Download
from wan_serve.service import DEFAULT_URL, RETRIES, TIMEOUT_S, Model, headers, models_of
from wan_serve.task import Task, TaskPage


class AsyncClient:
    """A running service, for asyncio; ``Client`` says more.

    What can pass (no answer, 429, 502, 503, 504) is tried again, after the pause that the service asks for;
    a submit holds an idempotency key, so that repeating it makes no second video. Each call raises
    ``Refused`` with the service's sentence, or ``Unreachable``.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retries: int = RETRIES,
    ) -> None:
        """``url``: of the service; ``api_key``: by default what ``WAN_SERVE_KEY`` holds.

        ``timeout_s``: the longest silence of a connection; ``retries``: further tries of each call.
        """
        key = os.environ.get("WAN_SERVE_KEY") if api_key is None else api_key
        self._http = httpx.AsyncClient(base_url=url.rstrip("/"), headers=headers(key), timeout=timeout_s)
        self._retries = retries

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def generate(
        self, prompt: str = "", *, on_progress: Callable[[Task], object] | None = None, **fields: Any
    ) -> "AsyncVideo":
        """Submit a video, wait for it and return it. Takes what ``submit`` takes.

        ``on_progress`` is called with the task at each change. Raises ``TaskFailed`` or ``TaskCancelled`` if
        there will be no video.
        """
        task = await self.wait(await self.submit(prompt, **fields), on_progress=on_progress)
        return AsyncVideo(task.require_video(), self)

    async def submit(self, prompt: str = "", **fields: Any) -> Task:
        """Submit a video and return its task.

        ``image``, ``last_image``, ``video``, ``mask`` and each of ``reference_images`` are a file's path, its
        bytes or a URL; ``seconds``, ``steps``, ``seed``, ``model``, ``loras`` and all others are those of
        docs/api.md. Raises ``OSError`` for a file that cannot be read.
        """
        return await self.task(call.text_at(await self._send(call.submit(prompt, fields)), "task_id"))

    async def again(self, task_id: str, **changes: Any) -> Task:
        """Submit an earlier video again, its seed included, but for ``changes``."""
        return await self.task(call.text_at(await self._send(call.again(task_id, changes)), "task_id"))

    async def task(self, task_id: str) -> Task:
        """Return a task as it stands."""
        return call.task_of(await self._send(call.of_task(task_id, "/status")))

    async def tasks(self, *, status: str = "", limit: int = 50, after: str = "") -> TaskPage:
        """Return a page of one's own tasks, newest first; ``after``: the last id of the page before."""
        asked = (
            {"limit": limit} | ({"status": status} if status else {}) | ({"after": after} if after else {})
        )
        return call.page_of(await self._send(Call("GET", "/v1/tasks", params=asked)))

    async def wait(self, task: Task | str, *, on_progress: Callable[[Task], object] | None = None) -> Task:
        """Return the task once it has ended, in whichever way; ``on_progress`` as in ``generate``."""
        last: Task | None = None
        async for last in self.events(task):
            if on_progress is not None:
                on_progress(last)
        # A stream that is opened after the end has nothing to tell.
        return last if last is not None and last.has_ended else await self.task(_id(task))

    async def events(self, task: Task | str | None = None) -> AsyncIterator[Task]:
        """Yield a task at each change, until it has ended; without one all of one's own, without an end.

        A stream that breaks is taken up where it broke.
        """
        path = "/v1/events" if task is None else call.of_task(_id(task), "/events").path
        lines, attempts = EventLines(), Attempts(self._retries)
        while True:
            outcome: Outcome
            lines.begin()
            try:
                async with self._http.stream("GET", path, headers=lines.headers) as outcome:
                    if outcome.status_code == 204:
                        return
                    if outcome.is_success:
                        async for line in outcome.aiter_lines():
                            if (changed := lines.take(line)) is not None:
                                attempts.renew(self._retries)
                                yield changed
                                if task is not None and changed.has_ended:
                                    return
                        outcome = httpx.ReadError("the stream ended")
                    else:
                        await outcome.aread()
            except httpx.TransportError as error:
                outcome = error
            await self._pause_or_raise(attempts, outcome)

    async def cancel(self, task: Task | str) -> Task:
        """Cancel a task and return it; one that has ended stays as it is."""
        await self._send(call.of_task(_id(task), method="DELETE"))
        return await self.task(_id(task))

    async def cancel_all(self, *, waiting_only: bool = False) -> Mapping[str, Any]:
        """Cancel all of one's own tasks that wait or run, and return the outcome, as ``StopDocument``."""
        which = "waiting" if waiting_only else "running"
        answer: Mapping[str, Any] = (await self._send(Call("DELETE", f"/v1/tasks/all/{which}"))).json()
        return answer

    async def finish_early(self, task: Task | str) -> Task:
        """Have a run decode what there is after the step that it is at."""
        return call.task_of(await self._send(call.of_task(_id(task), "/finish_early", method="POST")))

    async def put_next(self, task: Task | str) -> Task:
        """Put a waiting task before one's others."""
        return call.task_of(await self._send(call.of_task(_id(task), "/next", method="POST")))

    async def set_priority(self, task: Task | str, priority: int) -> Task:
        """Give a waiting task another priority: higher goes first."""
        sent = {"priority": priority}
        return call.task_of(await self._send(call.of_task(_id(task), method="PATCH", sent=sent)))

    async def pause(self) -> Mapping[str, Any]:
        """Begin none of one's waiting tasks; return the queue, as ``QueueStatusDocument`` in docs/api.md."""
        answer: Mapping[str, Any] = (await self._send(Call("POST", "/v1/tasks/queue/pause"))).json()
        return answer

    async def resume(self) -> Mapping[str, Any]:
        """End a pause; return the queue, as ``QueueStatusDocument``."""
        answer: Mapping[str, Any] = (await self._send(Call("POST", "/v1/tasks/queue/resume"))).json()
        return answer

    async def models(self) -> tuple[Model, ...]:
        """Return the served models."""
        return models_of(await self._send(Call("GET", "/v1/service/metadata")))

    async def status(self) -> Mapping[str, Any]:
        """Return what is going on, as ``ServiceStatusDocument`` in docs/api.md."""
        answer: Mapping[str, Any] = (await self._send(Call("GET", "/v1/service/status"))).json()
        return answer

    async def download(self, task: Task | str, path: str | Path) -> Path:
        """Store a finished video in a file and return its path; a download that breaks is taken up again.

        The file appears once it is whole. Raises ``OSError`` where it cannot be written.
        """
        with Download(Path(path)) as download:
            attempts = Attempts(self._retries)
            while True:
                outcome: Outcome
                try:
                    asked = call.of_task(_id(task), "/result")
                    async with self._http.stream(
                        "GET", asked.path, headers=download.headers, follow_redirects=True
                    ) as outcome:
                        if outcome.is_success:
                            download.begin(outcome)
                            async for part in outcome.aiter_bytes():
                                download.write(part)
                                attempts.renew(self._retries)
                            return download.finish()
                        await outcome.aread()
                except httpx.TransportError as error:
                    outcome = error
                await self._pause_or_raise(attempts, outcome)

    async def _send(self, asked: Call) -> httpx.Response:
        attempts = Attempts(self._retries)
        while True:
            outcome: Outcome
            try:
                outcome = await self._http.request(
                    asked.method, asked.path, json=asked.json, params=asked.params, headers=asked.headers
                )
            except httpx.TransportError as error:
                outcome = error
            pause = attempts.pause_after(outcome)
            if pause is None:
                return call.require_success(outcome, self._http.base_url)
            await asyncio.sleep(pause)

    async def _pause_or_raise(self, attempts: Attempts, outcome: Outcome) -> None:
        pause = attempts.pause_after(outcome)
        if pause is None:
            call.require_success(outcome, self._http.base_url)
        else:
            await asyncio.sleep(pause)


class AsyncVideo:
    """A finished video on the service."""

    def __init__(self, task: Task, client: AsyncClient) -> None:
        self.task = task
        self._client = client

    async def save(self, path: str | Path) -> Path:
        """Store the video in a file and return its path."""
        return await self._client.download(self.task, path)


def _id(task: Task | str) -> str:
    return task if isinstance(task, str) else task.id
