"""The log of moves: one JSON line for each state change of a task, in Ray Serve's log of the process.

For privacy, a line contains no prompt, no image and no file name that a client chose.
"""

import json
import logging

from serve_app.tasks.task import Task

# Serve configures the logger of this name in each of its processes; the name avoids an import of Ray.
_LOGGER = logging.getLogger("ray.serve")


def log_pause(change: str, owner: str, model: str | None) -> None:
    """Log that ``owner`` has paused or resumed its own queue, or that of ``model``."""
    _LOGGER.info("%s", json.dumps({"event": "queue", "move": change, "owner": owner, "model": model}))


def log_move(move: str, task: Task, **facts: str | int | float | None) -> None:
    """Log that ``task``, in its new state, has made ``move``; ``facts`` are added to the line."""
    line: dict[str, str | int | float | None] = {
        "event": "task",
        "move": move,
        "task_id": task.id,
        "uid": task.uid,
        "owner": task.owner,
        "model": task.model,
        "status": task.status.value,
        "attempt": task.attempt,
        "runner": task.runner,
    }
    if task.error is not None:
        line["error"] = task.error.code
    _LOGGER.info("%s", json.dumps({**line, **facts}, ensure_ascii=False))
