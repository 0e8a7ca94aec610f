"""Conversion between records and rows: the only module with the format of a task in the database."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from types import MappingProxyType
from typing import Any

from sqlalchemy import RowMapping

from models.video_spec import LoraUse
from serve_app.tasks.continuation import Continuation
from serve_app.tasks.task import NewTask, Task, TaskError, TaskSpec
from serve_app.tasks.transitions import Status
from serve_app.tasks.video_output import PLAIN, Codec, VideoFormat, VideoOutput
from serve_app.tasks.webhook import Callback, EventType

_NULL_AT_FIRST = (
    "runner",
    "started_at",
    "finished_at",
    "lease_expires_at",
    "artifact",
    "error_code",
    "error_message",
)
_LATER_FIELDS: Mapping[str, Any] = MappingProxyType(
    {"reference_keys": (), "video_key": None, "mask_key": None, "control_scale": 1.0}
)
"""Fields of a spec that a row holds only if they are not these."""
_SPEC_FIELDS = frozenset(field.name for field in fields(TaskSpec))
_APART = frozenset({"loras", "video_frames", "continues", "fragment_prompts", "output"})
_PLAIN_FIELDS = tuple(field.name for field in fields(TaskSpec) if field.name not in _APART)
"""Fields of a spec that a row holds as they are."""


def task_of(row: Mapping[str, Any] | RowMapping) -> Task:
    """Return the record of a row of ``tasks``."""
    spec = _spec_of(row["spec"])
    error = TaskError(row["error_code"], row["error_message"]) if row["error_code"] else None
    return Task(
        uid=row["uid"],
        id=row["id"],
        seq=row["seq"],
        status=Status(row["status"]),
        model=row["model"],
        spec=spec,
        work=row["work"],
        priority=row["priority"],
        owner=row["owner"],
        notes=tuple(row["notes"]),
        request=_restored_request(row["request"], spec.prompt),
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
        version=row["version"],
        phase=row["phase"],
        callback=callback_of(row),
        expires_at=row["expires_at"],
        frames=row["frames"],
        previews_until=row["previews_until"],
        enhance_prompt=row["enhance_prompt"],
        revised_prompt=row["revised_prompt"],
        told_s=row["told_s"],
        traceparent=row["traceparent"],
        upload_url=row["upload_url"],
    )


def callback_of(row: Mapping[str, Any] | RowMapping) -> Callback | None:
    """Return the callback of a row of ``tasks``, None without one."""
    if row["callback_url"] is None:
        return None
    return Callback(row["callback_url"], tuple(map(EventType, row["callback_events"].split())))


def values_of(new: NewTask, *, max_attempts: int, now: float) -> Mapping[str, Any]:
    """Return the first row of a task: queued, without an attempt."""
    return {
        "uid": new.uid,
        "id": new.id,
        "status": Status.QUEUED,
        "model": new.model,
        "spec": _spec_values(new.spec),
        "work": new.work,
        "tokens": new.tokens,
        "priority": new.priority,
        "owner": new.owner,
        "notes": list(new.notes),
        "request": _without_prompt(new.request, new.spec.prompt),
        "save_path": new.save_path,
        "idempotency_key": new.idempotency_key,
        "digest": new.digest,
        "attempt": 0,
        "attempts_left": max_attempts,
        "step": 0,
        "progress": 0.0,
        "phase": "",
        "created_at": now,
        "timings": {},
        "version": 0,
        "place": 0,
        "finish_early": False,
        "frames": None,
        "previews_until": None,
        "enhance_prompt": new.enhance_prompt,
        "revised_prompt": None,
        "told_s": new.told_s,
        "traceparent": new.traceparent,
        "expires_at": None if new.expires_in_s is None else now + new.expires_in_s,
        "callback_url": new.callback.url if new.callback else None,
        "callback_events": " ".join(new.callback.events) if new.callback else None,
        "upload_url": new.upload_url,
        **dict.fromkeys(_NULL_AT_FIRST),
    }


def _spec_of(stored: Mapping[str, Any]) -> TaskSpec:
    """Return the spec of a row written by this version, an earlier one, or a later one with more fields."""
    values = {name: value for name, value in stored.items() if name in _SPEC_FIELDS}
    values["num_frames"] = stored.get("fragment_frames") or stored["num_frames"]
    values["continues"] = before = _continuation_of(stored.get("continues"))
    if stored.get("num_fragments", 1) > 1 or before is not None:
        values["video_frames"] = stored["num_frames"]
    if stored.get("loras") is not None:
        values["loras"] = tuple(
            LoraUse(use["name"], use["strength"], use["strength_low"]) for use in stored["loras"]
        )
    elif stored.get("lora_name") is not None:
        values["loras"] = (LoraUse(stored["lora_name"], stored.get("lora_strength", 1.0)),)
    values["fragment_prompts"] = tuple(stored.get("fragment_prompts", ()))
    values["output"] = _output_of(stored.get("output") or {})
    values["reference_keys"] = tuple(stored.get("reference_keys", ()))
    return TaskSpec(**values)


def _continuation_of(stored: Mapping[str, Any] | None) -> Continuation | None:
    if stored is None:
        return None
    kept_ends = tuple(stored["kept_ends"])
    return Continuation(stored["end"], stored["tail"], kept_ends, stored["key"], stored.get("task_id", ""))


def _output_of(stored: Mapping[str, Any]) -> VideoOutput:
    codec = stored.get("codec")
    return VideoOutput(
        format=VideoFormat(stored.get("format", PLAIN.format)),
        codec=None if codec is None else Codec(codec),
        crf=stored.get("crf"),
        return_last_frame=stored.get("return_last_frame", False),
    )


def _spec_values(spec: TaskSpec) -> dict[str, Any]:
    """Return the spec in the row format of the first version, which other versions also read.

    In that format ``num_frames`` counts the whole video, and ``lora_name`` is the only LoRA. Of several it is
    all their names, which a version that knows of one refuses as a name; ``loras`` then has the list.
    """
    stored = {name: getattr(spec, name) for name in _PLAIN_FIELDS}
    if spec.continues is not None:
        stored["continues"] = asdict(spec.continues)
    if spec.fragment_prompts:
        stored["fragment_prompts"] = spec.fragment_prompts
    if spec.output != PLAIN:
        stored["output"] = asdict(spec.output)
    for name, default in _LATER_FIELDS.items():
        if getattr(spec, name) == default:
            del stored[name]
    stored |= {"num_frames": spec.total_frames, "fragment_frames": spec.num_frames}
    stored["lora_name"] = spec.loras_key
    if spec.loras:
        stored["lora_strength"] = spec.loras[0].strength
    if len(spec.loras) > 1 or any(lora.strength_low is not None for lora in spec.loras):
        stored["loras"] = [asdict(use) for use in spec.loras]
    return stored


def _without_prompt(request: Mapping[str, Any], prompt: str) -> dict[str, Any]:
    """Return the request with a null prompt if the spec has the same one: a prompt may be long."""
    return dict(request) | ({"prompt": None} if request.get("prompt") == prompt else {})


def _restored_request(stored: Mapping[str, Any], prompt: str) -> Mapping[str, Any]:
    """Return the client's request, with a null prompt restored from the spec."""
    return {**stored, "prompt": prompt} if "prompt" in stored and stored["prompt"] is None else stored
