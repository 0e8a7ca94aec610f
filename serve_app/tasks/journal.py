"""The journal: one JSON line for each move of a task, to the log that Ray Serve keeps for the process.

No line holds a prompt, a file name that a client chose, or an image: a log is read by more people than a video.
"""

import json
import logging

from serve_app.tasks.task import Task

# Serve configures the logger of this name in each of its processes; looking it up by name keeps Ray out of here.
_LOGGER = logging.getLogger("ray.serve")


def log_move(move: str, task: Task, **facts: str | int | float | None) -> None:
    """Note that ``task``, given as it stands after it, made ``move``; ``facts`` are what else is worth knowing."""
    line: dict[str, str | int | float | None] = {
        "event": "task",
        "move": move,
        "task_id": task.id,
        "uid": task.uid,
        "model": task.model,
        "status": task.status.value,
        "attempt": task.attempt,
        "runner": task.runner,
    }
    if task.error is not None:
        line["error"] = task.error.code
    _LOGGER.info("%s", json.dumps({**line, **facts}, ensure_ascii=False))
