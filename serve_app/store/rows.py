"""Between records and rows: the only place that knows how a task is spelt in the database."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import RowMapping

from serve_app.tasks.task import NewTask, Task, TaskError, VideoSpec
from serve_app.tasks.transitions import Status

_EMPTY_AT_FIRST = (
    "runner",
    "started_at",
    "finished_at",
    "lease_expires_at",
    "artifact",
    "error_code",
    "error_message",
)


def task_of(row: Mapping[str, Any] | RowMapping) -> Task:
    """The record of a row of ``tasks``."""
    error = TaskError(row["error_code"], row["error_message"]) if row["error_code"] else None
    return Task(
        uid=row["uid"],
        id=row["id"],
        seq=row["seq"],
        status=Status(row["status"]),
        model=row["model"],
        spec=VideoSpec(**row["spec"]),
        work=row["work"],
        priority=row["priority"],
        owner=row["owner"],
        notes=tuple(row["notes"]),
        request=row["request"],
        save_path=row["save_path"],
        attempt=row["attempt"],
        attempts_left=row["attempts_left"],
        runner=row["runner"],
        step=row["step"],
        progress=row["progress"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        lease_expires_at=row["lease_expires_at"],
        artifact=row["artifact"],
        error=error,
        timings=row["timings"],
        tokens=row["tokens"],
    )


def values_of(new: NewTask, *, max_attempts: int, now: float) -> Mapping[str, Any]:
    """The first row of a task: queued, no attempt made."""
    return {
        "uid": new.uid,
        "id": new.id,
        "status": Status.QUEUED,
        "model": new.model,
        "spec": asdict(new.spec),
        "work": new.work,
        "tokens": new.tokens,
        "priority": new.priority,
        "owner": new.owner,
        "notes": list(new.notes),
        "request": dict(new.request),
        "save_path": new.save_path,
        "idempotency_key": new.idempotency_key,
        "digest": new.digest,
        "attempt": 0,
        "attempts_left": max_attempts,
        "step": 0,
        "progress": 0.0,
        "created_at": now,
        "timings": {},
        **dict.fromkeys(_EMPTY_AT_FIRST),
    }
