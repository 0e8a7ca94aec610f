"""Processor time of a request in the front door alone: no proxy, no cluster, no client, no sockets.

Requests go to the applications as a server hands them over, some at once, in turns: to the service with all
its surfaces, to the one with its native surface alone, and to a bare FastAPI echo. What is told is the
processor time that the process takes for each, the median of the turns: that holds on a machine that others
use, too.
"""

import argparse
import asyncio
import json
import logging
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from fastapi import FastAPI
from starlette.types import ASGIApp, Message

from bench.door_applications import NATIVE_ALONE, bare_echo
from bench.http_load import CONNECTIONS, SMALL
from bench.machine import describe
from serve_app.api.application import SURFACES, Surface, build_api
from serve_app.config.settings import parse_settings

_PROMPT = "A white cat sitting by the beach under sunset sky"
_STATUSES = 100


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="scripts/bench door_time", description=__doc__)
    parser.add_argument("--turns", type=int, default=15, help="turns of each (default 15)")
    parser.add_argument("--requests", type=int, default=400, help="requests of a turn (default 400)")
    parser.add_argument(
        "--at-once", type=int, default=CONNECTIONS, help=f"requests at once (default {CONNECTIONS})"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        logger = logging.getLogger("ray.serve")
        logger.handlers[:] = [logging.FileHandler(Path(folder) / "log")]  # as a replica writes it
        logger.propagate = False
        took = asyncio.run(_measured(Path(folder), options))
    figures = {name: statistics.median(each) for name, each in took.items()}
    print(describe())
    for name, each in took.items():
        print(f"{name:<16}{1000 * figures[name]:8.0f} us a request, {1000 * min(each):.0f} at least")
    for which in ("submit", "status"):
        ratios = [
            ours / native for ours, native in zip(took[f"{which}_all"], took[f"{which}_native"], strict=True)
        ]
        print(f"{which}: all surfaces over the native one {statistics.median(ratios):.3f}")
    if options.json:
        print(json.dumps({name: round(figure, 4) for name, figure in figures.items()}))
    return 0


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, as a server hands it over."""

    method: str
    path: str
    body: bytes = b""

    async def of(self, app: ASGIApp) -> bytes:
        """Return the body of an application's answer. Raises ``RuntimeError`` at one but 200."""
        headers = [
            (b"host", b"127.0.0.1:8000"),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(self.body)).encode()),
        ]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8000),
        }
        parts: list[bytes] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": self.body, "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] != 200:
                raise RuntimeError(f"{self.path} answered {message['status']}")
            parts.append(message.get("body", b""))

        await app(scope, receive, send)
        return b"".join(parts)


async def _measured(folder: Path, options: argparse.Namespace) -> Mapping[str, Sequence[float]]:
    """Return the milliseconds of processor time of each turn, by what was asked for."""
    async with AsyncExitStack() as stack:
        asked: dict[str, tuple[ASGIApp, Iterator[_Asked]]] = {
            "echo": (bare_echo(), _submits("/echo")),
        }
        for name, surfaces in (("native", NATIVE_ALONE), ("all", SURFACES)):
            api = _service(folder / name, surfaces)
            await stack.enter_async_context(api.router.lifespan_context(api))
            submits = _submits("/v1/tasks/video")
            first = [json.loads(await each.of(api))["task_id"] for each in islice(submits, _STATUSES)]
            asked[f"submit_{name}"] = api, submits
            asked[f"status_{name}"] = api, _statuses(first)
        took: dict[str, list[float]] = defaultdict(list)
        for turn in range(options.turns + 1):
            for name, (app, them) in asked.items():
                spent = await _turn(app, islice(them, options.requests), options.at_once)
                if turn:  # the first one warms up
                    took[name].append(1000 * spent / options.requests)
        return took


async def _turn(app: ASGIApp, asked: Iterator[_Asked], at_once: int) -> float:
    """Return the seconds of processor time that the requests of a turn take."""

    async def connection() -> None:
        for each in asked:
            await each.of(app)

    began = time.process_time()
    await asyncio.gather(*(connection() for _ in range(at_once)))
    return time.process_time() - began


def _submits(path: str) -> Iterator[_Asked]:
    number = 0
    while True:
        body = {"prompt": f"{_PROMPT}, take {number}", "infer_steps": 20, **SMALL}
        yield _Asked("POST", path, json.dumps(body).encode())
        number += 1


def _statuses(task_ids: Sequence[str]) -> Iterator[_Asked]:
    while True:
        for task_id in task_ids:
            yield _Asked("GET", f"/v1/tasks/{task_id}/status")


def _service(folder: Path, surfaces: Sequence[Surface]) -> FastAPI:
    folder.mkdir()
    settings = parse_settings(
        {
            "data_dir": "data",
            "models": [{"name": "demo", "variant": "demo", "weights": "."}],
            "limits": {"max_queued": 1_000_000},
        },
        folder,
    )
    return build_api(settings, lambda: None, lambda _: None, surfaces, on_streams=lambda _: None)
