"""A running service as a test sees it: an address, the processes behind it, and conditions to wait for."""

import atexit
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import httpx

FINAL = ("succeed", "failed", "cancelled")
LEAST_PAUSE_S, MOST_PAUSE_S = 0.05, 0.4
"""The pauses between two looks at a condition."""
# One for all: making a client costs more than a request does.
HTTP = httpx.Client(timeout=60)
atexit.register(HTTP.close)


@dataclass(frozen=True)
class Service:
    """The service at ``url``, which keeps its data in ``data_dir``."""

    url: str
    data_dir: Path
    replica_pids: Callable[[str], Mapping[str, int]]
    """Deployment name in, pids by replica id out."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """The headers of every request."""

    def with_key(self, key: str) -> Self:
        """Return the same service, asked with this API key."""
        return replace(self, headers={"X-API-Key": key})

    def get(self, path: str) -> Any:
        """Return the JSON answer to a GET of this path. Fails on any answer but 200."""
        answer = HTTP.get(self.url + path, headers=self.headers)
        assert answer.status_code == 200, (answer.status_code, answer.text)
        return answer.json()

    def submit(self, **fields: Any) -> str:
        """Submit a task with these fields and return its id."""
        body = {"prompt": "a cat", **fields}
        answer = HTTP.post(f"{self.url}/v1/tasks/video", json=body, headers=self.headers)
        assert answer.status_code == 200, (answer.status_code, answer.text)
        task_id: str = answer.json()["task_id"]
        return task_id

    def status(self, task_id: str) -> dict[str, Any]:
        """Return the status of a task."""
        status: dict[str, Any] = self.get(f"/v1/tasks/{task_id}/status")
        return status

    def cancel(self, task_id: str) -> dict[str, Any]:
        """Cancel a task and return the answer."""
        answer: dict[str, Any] = HTTP.delete(f"{self.url}/v1/tasks/{task_id}", headers=self.headers).json()
        return answer

    def result(self, task_id: str) -> bytes:
        """Return the bytes of a task's video."""
        answer = HTTP.get(f"{self.url}/v1/tasks/{task_id}/result", headers=self.headers)
        assert answer.status_code == 200, answer.text
        return answer.content

    def until(self, task_id: str, *wanted: str, step: int = 0, deadline_s: float = 120) -> dict[str, Any]:
        """Wait until the task is in a ``wanted`` state (default: a final one) and at ``step``; return its
        status.
        """
        found: dict[str, Any] = {}

        def reached() -> bool:
            found.update(self.reachable_status(task_id))
            if found.get("status") in FINAL and found["status"] not in (wanted or FINAL):
                raise AssertionError(f"the task ended otherwise: {found}")
            return found.get("status") in (wanted or FINAL) and found["step"] >= step

        wait_for(reached, deadline_s, lambda: f"task {task_id} stands at {found}")
        return found

    def reachable_status(self, task_id: str) -> dict[str, Any]:
        """Return the status, empty while the service restarts; an acknowledged task is never unknown."""
        try:
            answer = HTTP.get(f"{self.url}/v1/tasks/{task_id}/status", headers=self.headers, timeout=5)
        except httpx.TransportError:
            return {}
        if answer.headers.get("content-type", "").startswith("application/json") and answer.status_code < 500:
            assert answer.status_code == 200, answer.text
            return dict(answer.json())
        return {}

    def health(self, model: str) -> list[str]:
        """Return the health word of each replica of the model, as the service tells it."""
        return [device["health"] for device in self.devices(model)]

    def health_of(self, replica: str, model: str) -> str | None:
        """Return the health word of one replica; None when the service does not know it."""
        words = {device["replica"]: device["health"] for device in self.devices(model)}
        return words.get(replica)

    def devices(self, model: str) -> list[dict[str, Any]]:
        """Return the replicas of the model, as the status of the service lists them."""
        devices: list[dict[str, Any]] = self.get("/v1/service/status")["models"][model]["devices"]
        return devices

    def kill(self, deployment: str) -> None:
        """Kill the one replica of a deployment (SIGKILL)."""
        (pid,) = self.replica_pids(deployment).values()
        os.kill(pid, signal.SIGKILL)


def wait_for(condition: Callable[[], bool], deadline_s: float, what: Callable[[], str]) -> None:
    """Poll until the condition holds; past the deadline fail with ``what``.

    The pause grows with the time waited: what is long in coming comes no sooner for being asked often, and
    each look costs processor time that the service needs.
    """
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        assert waited < deadline_s, f"not within {deadline_s} s: {what()}"
        time.sleep(min(max(LEAST_PAUSE_S, waited / 8), MOST_PAUSE_S))
