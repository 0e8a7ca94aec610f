"""``wan-serve watch``: the queue and the replicas as they change."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live

from wan_serve.async_client import AsyncClient
from wan_serve.commands.connection import AsJson, KeyFile, Url, connect_async
from wan_serve.commands.tasks import row_of, service_table, task_table
from wan_serve.commands.terminal import output, print_json, shown
from wan_serve.errors import WanServeError
from wan_serve.service import DEFAULT_URL
from wan_serve.task import Task

_EVERY_S = 2.0
_ENDED_SHOWN = 5


def watch(url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: AsJson = False) -> None:
    """Show one's tasks and the replicas until Ctrl-C; in a pipe, a line for each change."""
    asyncio.run(_watch(url, key_file, as_json))


@dataclass(slots=True)
class Picture:
    """What is shown: the service as it was last asked, and the tasks as they last changed."""

    service: Mapping[str, Any] = field(default_factory=lambda: {"models": {}})
    tasks: dict[str, Task] = field(default_factory=dict)

    def take(self, task: Task) -> None:
        """Add a task's change; of those that have ended, a few stay."""
        self.tasks.pop(task.id, None)
        self.tasks[task.id] = task
        ended = [each.id for each in self.tasks.values() if each.has_ended]
        for task_id in ended[:-_ENDED_SHOWN]:
            del self.tasks[task_id]

    def drawn(self) -> Group:
        """Return the picture: what runs first, then what waits in its order, then what has ended."""
        order = sorted(self.tasks.values(), key=_order)
        return Group(service_table(self.service), "", task_table(order))


def _order(task: Task) -> tuple[bool, bool, int]:
    return task.has_ended, task.status == "submitted", task.queue_position or 0


async def _watch(url: str, key_file: Path | None, as_json: bool) -> None:
    async with connect_async(url, key_file) as client:
        console = output()
        if as_json or not console.is_terminal:
            async for task in client.events():
                if as_json:
                    print_json(task.document, indent=None)
                else:
                    print(*map(shown, row_of(task)), sep="\t", flush=True)
            return
        picture = Picture()
        with Live(console=console, get_renderable=picture.drawn, refresh_per_second=4):
            asking = asyncio.create_task(_ask(client, picture))
            try:
                async for task in client.events():
                    picture.take(task)
            finally:
                asking.cancel()


async def _ask(client: AsyncClient, picture: Picture) -> None:
    while True:
        with suppress(WanServeError):  # which the stream of events then raises, too
            picture.service = await client.status()
        await asyncio.sleep(_EVERY_S)
