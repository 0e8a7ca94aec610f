"""The stage of a measurement: the service with slots in place of model replicas, and what they note."""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.http_load import Load, load, post
from testbed.cluster import Cluster, paced
from testbed.service import Service, wait_for

CONNECTIONS = 32
DEADLINE_S = 900
BODY = {"prompt": "A white cat sitting by the beach", "width": 64, "height": 64, "num_frames": 5}


@dataclass(frozen=True)
class Stage:
    """A cluster, a folder for the traces of one deploy, and a new database for it."""

    cluster: Cluster
    folder: Path
    new_database: Callable[[], str | None] = lambda: None
    """Returns the address of an empty database; None for SQLite in the data folder."""

    @contextmanager
    def deploy(self, processes: int, slots: int, seconds: float, reports: int = 1) -> Iterator[Service]:
        """Deploy ``processes`` times ``slots`` slots, whose runs take ``seconds`` each."""
        self._trace.mkdir(parents=True)
        model = paced(0.0, replicas=processes)
        paths = {"trace": str(self._trace), "gate": str(self._gate)}
        model["options"] = {"slots": slots, "seconds": seconds, "reports": reports, **paths}
        args: dict[str, Any] = {"models": [model], "limits": {"max_queued": 100_000}}
        if (url := self.new_database()) is not None:
            args["database_url"] = url
        with self.cluster.deploy(import_path="bench.slots_application:build", **args) as service:
            yield service

    def open_gate(self) -> None:
        """Let the slots begin."""
        self._gate.touch()

    def runs(self) -> Sequence[tuple[float, float]]:
        """Return when each run began and ended, in seconds of the monotonic clock."""
        return [(float(began), float(ended)) for _, began, ended in self._lines("runs")]

    def calls(self, since: float, until: float = float("inf")) -> Mapping[str, Sequence[float]]:
        """Return by kind, ascending, the seconds of each call that was answered between two times."""
        calls: dict[str, list[float]] = defaultdict(list)
        for kind, answered_at, seconds in self._lines("calls"):
            if since <= float(answered_at) <= until:
                calls[kind].append(float(seconds))
        return {kind: sorted(calls[kind]) for kind in sorted(calls)}

    def _lines(self, kind: str) -> Iterator[Sequence[str]]:
        for file in self._trace.glob(f"*.{kind}"):
            *whole, _ = file.read_text().split("\n")  # the last line may be one that is being written
            yield from map(str.split, whole)

    @property
    def _trace(self) -> Path:
        return self.folder / "trace"

    @property
    def _gate(self) -> Path:
        return self.folder / "open"


async def submit(service: Service, tasks: int) -> Load:
    """Submit so many tasks over ``CONNECTIONS`` connections."""
    request = post(f"{httpx.URL(service.url).path}/v1/tasks/video", json.dumps(BODY).encode())
    return await load(service.url, lambda _: request, requests=tasks, connections=CONNECTIONS)


def drain(service: Service) -> None:
    """Wait until every task has ended, as it should."""

    def is_drained() -> bool:
        time.sleep(1.0)  # each look costs the service more than a task does
        queue = service.get("/v1/tasks/queue/status")
        return bool(queue["pending_count"] + queue["active_count"] == 0)

    wait_for(is_drained, DEADLINE_S, lambda: str(service.get("/v1/tasks/queue/status")))
    status = service.get("/v1/service/status")
    assert status["completed_tasks"] == status["total_tasks"], f"not all succeeded: {status}"
