"""The log of moves: one JSON line for each move of a task, in the log that Ray Serve keeps for the process.

No line holds a prompt, an image, or a file name that a client chose: more people read a log than a video.
"""

import json
import logging

from serve_app.tasks.task import Task

# Serve sets up the logger of this name in each of its processes; taking it by name keeps Ray out of here.
_LOGGER = logging.getLogger("ray.serve")


def log_move(move: str, task: Task, **facts: str | int | float | None) -> None:
    """Note that ``task``, given as it stands now, has made ``move``; ``facts`` go into the same line."""
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
