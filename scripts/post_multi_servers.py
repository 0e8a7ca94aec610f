#!/usr/bin/env python3
"""Submit many tasks to one URL and show which replica took which.

python scripts/post_multi_servers.py [--count N] [PROMPT ...]

The service spreads the tasks over its replicas and queues the rest: the client schedules nothing.
"""

import itertools
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from service_client import Service, parser

PROMPTS = (
    "Two anthropomorphic cats in comfy boxing gear fight on a spotlighted stage.",
    "A white cat sits on a surfboard at the beach under a sunset sky.",
    "A paper boat sails down a rainy street between neon signs.",
    "A lighthouse in a storm, waves breaking over the rocks.",
)
FINAL = ("succeed", "failed", "cancelled")
COLUMNS = ("task_id", "status", "replica", "seconds", "prompt")


def main() -> int:
    """Submit, wait and print; the exit status: 0 where every task succeeded."""
    command_line = parser(__doc__.splitlines()[0])
    command_line.add_argument("prompts", nargs="*", default=PROMPTS, metavar="PROMPT")
    command_line.add_argument("--count", type=int, help="how many tasks (default: one for each prompt)")
    command_line.add_argument("--poll_s", type=float, default=2.0, help="seconds between looks (default: 2)")
    arguments = command_line.parse_args()
    service = Service(arguments.url)

    count = arguments.count or len(arguments.prompts)
    prompts = {
        service.post("/v1/tasks/video", {"prompt": prompt})["task_id"]: prompt
        for prompt in itertools.islice(itertools.cycle(arguments.prompts), count)
    }
    print(f"{count} tasks submitted to {service.url}")
    ended: dict[str, dict[str, Any]] = {}
    while len(ended) < count:
        for task_id in prompts.keys() - ended.keys():
            status = service.get(f"/v1/tasks/{task_id}/status")
            if status["status"] in FINAL:
                ended[task_id] = status
                print(f"{len(ended)}/{count} {task_id} {status['status']} {status['message']}")
        if len(ended) < count:
            time.sleep(arguments.poll_s)
    print_table([row(ended[task_id], prompt) for task_id, prompt in prompts.items()])
    return 0 if all(status["status"] == "succeed" for status in ended.values()) else 1


def row(status: dict[str, Any], prompt: str) -> tuple[str, ...]:
    """The cells of a task that has ended."""
    started, finished = (status.get(key) for key in ("started_at", "finished_at"))
    seconds = ""
    if started and finished:
        seconds = (
            f"{(datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds():.1f}"
        )
    return status["task_id"], status["status"], str(status.get("replica") or ""), seconds, prompt[:60]


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print the rows below the names of their columns."""
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
    for cells in (COLUMNS, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
