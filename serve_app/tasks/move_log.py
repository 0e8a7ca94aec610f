"""The log of moves: one JSON line for each state change of a task, in Ray Serve's log of the process.

For privacy, a line contains no prompt, no image and no file name that a client chose.
"""

import json
import logging
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TypeAlias

from serve_app.tasks.task import Task

# Serve configures the logger of this name in each of its processes; the name avoids an import of Ray.
_LOGGER = logging.getLogger("ray.serve")

Fields: TypeAlias = Mapping[str, str | int | float | None]

RUNNING: ContextVar[Task | None] = ContextVar("wan_serve_running", default=None)
"""The task that the code at work runs."""


class MoveLine:
    """A line of the log: as text the JSON of its fields."""

    def __init__(self, sentence: str, fields: Fields) -> None:
        """``sentence``: the line in words, where the fields stand beside it."""
        self.sentence = sentence
        self.fields = fields

    def __str__(self) -> str:
        """Return the fields as JSON."""
        return json.dumps(self.fields, ensure_ascii=False)


class Structured(logging.Filter):
    """Puts what a line says of a task beside its words, as fields of their own, for logs that are JSON."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields of a ``MoveLine``, or the task that is run; take every record."""
        fields: Fields = {}
        if isinstance(record.msg, MoveLine):
            fields, record.msg = record.msg.fields, record.msg.sentence
        elif (task := RUNNING.get()) is not None:
            fields = _identity(task)
        # Ray has a task_id of its own.
        record.__dict__.update({_field(name): value for name, value in fields.items()})
        return True


def structure_logs() -> None:
    """Have this process's log lines carry the fields of tasks; for Serve's JSON encoding."""
    for handler in _LOGGER.handlers:
        handler.addFilter(Structured())


def log_pause(change: str, owner: str, model: str | None) -> None:
    """Log that ``owner`` has paused or resumed its own queue, or that of ``model``."""
    fields = {"event": "queue", "move": change, "owner": owner, "model": model}
    _LOGGER.info(MoveLine(f"queue: {change}", fields))


def log_move(move: str, task: Task, **facts: str | int | float | None) -> None:
    """Log that ``task``, in its new state, has made ``move``; ``facts`` are added to the line."""
    fields: Fields = {
        "event": "task",
        "move": move,
        **_identity(task),
        "owner": task.owner,
        "model": task.model,
        "status": task.status.value,
        "runner": task.runner,
        **({} if task.error is None else {"error": task.error.code}),
        **facts,
    }
    _LOGGER.info(MoveLine(f"task {task.id}: {move}", fields))


def _identity(task: Task) -> Fields:
    # A coordinator of the version before sends a task without it.
    traceparent: str | None = getattr(task, "traceparent", None)
    traced = {} if traceparent is None else {"trace_id": traceparent.split("-")[1]}
    return {"task_id": task.id, "uid": task.uid, "attempt": task.attempt, **traced}


def _field(name: str) -> str:
    return name if name == "trace_id" else f"wan_{name}"
