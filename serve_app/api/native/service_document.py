"""JSON documents of the native surface about the service: status and metadata."""

from collections.abc import Mapping
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from models.size_choices import SizeChoice, size_choices
from models.variants import Variant
from serve_app.api.http.described import described
from serve_app.config.model_settings import ModelSettings
from serve_app.media.encoders import written_formats
from serve_app.queue.snapshot import ModelLine, QueueSnapshot
from serve_app.submission.offer import Offer
from serve_app.tasks.caller import Caller
from serve_app.tasks.replica import Replica
from serve_app.tasks.transitions import Status

_FAST = 0.4
"""Share of a model's own denoise steps that the preset `fast` takes."""


class HealthDocument(TypedDict):
    """Liveness of the service."""

    status: Literal["ok"]


class ReadyDocument(TypedDict):
    """Readiness: a task submitted now would run."""

    status: Literal["ready"]


@described
class DeviceDocument(TypedDict):
    """One model replica."""

    replica: str
    """Its name."""
    device: str
    """What it runs on, such as `cuda`."""
    ranks: int
    """Processes that make a video together."""
    health: str
    """Such as ready, busy or setup_failed."""
    reason: NotRequired[str]
    """Why its model could not be loaded."""


@described
class ModelStatusDocument(TypedDict):
    """One model's queue and replicas."""

    replicas: int
    """Those that can take work."""
    wanted_replicas: int | None
    """Null for a model that does not scale."""
    queued: int
    """Tasks that wait."""
    running: int
    """Tasks that run."""
    seconds_per_work: float | None
    """Measured: seconds for a unit of steps · tokens · forwards; null before the first video."""
    devices: list[DeviceDocument]


@described
class ServiceStatusDocument(TypedDict):
    """Service status. Counts are of all tasks; ids are of the tasks that the caller sees."""

    service_status: Literal["idle", "busy"]
    """`idle` while any replica is free and the disks have room."""
    current_task: str | None
    """The longest-running task."""
    active_tasks: list[str]
    """Those that run."""
    pending_tasks: int
    """Tasks that wait."""
    queue_size: int
    """How many may wait."""
    total_tasks: int
    """All that are kept."""
    completed_tasks: int
    """Those that succeeded."""
    failed_tasks: int
    cancelled_tasks: int
    models: dict[str, ModelStatusDocument]


class DefaultsDocument(TypedDict):
    """Default values of a model's request fields."""

    width: int
    height: int
    num_frames: int
    fps: int
    infer_steps: int
    guidance_scale: float
    guidance_scale_2: float | None
    flow_shift: float
    negative_prompt: str


class ModelLimitsDocument(TypedDict):
    """Limits of what a model takes and makes; sides are multiples of `size_multiple` pixels."""

    max_pixels: int
    max_frames: int
    size_multiple: int
    max_references: int
    takes_video: bool


class SizeDocument(TypedDict):
    """A size to offer: its tier, such as 480p, its shape, such as 16:9, and its sides in pixels."""

    tier: str
    ratio: str
    width: int
    height: int


class PresetDocument(TypedDict):
    """Denoise steps to offer under a name: `fast` or `quality`, the model's own."""

    name: str
    infer_steps: int


class ModelDocument(TypedDict):
    """One served model. `tasks` are of t2v, i2v and flf2v; `sizes` and `presets` are what a form may offer.

    `lora_notes` say of some LoRAs what is left out or guessed, or why a request that names one is refused.
    """

    name: str
    variant: str
    tasks: list[str]
    distilled: bool
    loras: list[str]
    lora_notes: dict[str, str]
    example_prompts: list[str]
    autoscaling: dict[str, Any] | None
    defaults: DefaultsDocument
    limits: ModelLimitsDocument
    sizes: list[SizeDocument]
    presets: list[PresetDocument]


@described
class LimitsDocument(TypedDict):
    """Limits of requests."""

    max_queued: int
    """Tasks that may wait."""
    max_image_bytes: int
    """Of an uploaded picture."""
    max_image_pixels: int
    max_video_bytes: int
    max_video_pixels: int
    max_video_s: float
    """Of a picture."""
    max_priority: int
    """The highest `priority`; the lowest is its negative."""
    retention_s: float
    """Seconds for which ended tasks and their files are kept."""
    image_urls: bool
    """Whether pictures may be http(s) URLs."""
    image_paths: bool
    """Whether pictures may be files in an input folder."""


class MetadataDocument(TypedDict):
    """The models with their defaults, the limits of the service, and whether it has a prompt enhancer.

    `formats` are those that a video's file can have, each with its codecs, the usual one first.
    """

    name: str
    version: str
    models: list[ModelDocument]
    limits: LimitsDocument
    prompt_enhancer: bool
    formats: dict[str, list[str]]


def status_document(
    offer: Offer, queue: QueueSnapshot, counts: Mapping[Status, int], caller: Caller
) -> ServiceStatusDocument:
    """Return the service status as ``caller`` sees it."""
    running = [task.id for task in queue.running_of(caller)]
    return {
        "service_status": "idle" if queue.is_idle else "busy",
        "current_task": running[0] if running else None,
        "active_tasks": running,
        "pending_tasks": counts[Status.QUEUED],
        "queue_size": offer.limits.max_queued,
        "total_tasks": sum(counts.values()),
        "completed_tasks": counts[Status.SUCCEEDED],
        "failed_tasks": counts[Status.FAILED],
        "cancelled_tasks": counts[Status.CANCELLED],
        "models": {model.name: _line(queue.line(model.name)) for model in offer.models},
    }


def metadata_document(offer: Offer, version: str) -> MetadataDocument:
    """Return the models and limits. Blocks while LoRA folders, and ffmpeg's encoders, are listed."""
    limits = offer.limits
    return {
        "name": "Wan Serve",
        "version": version,
        "models": [_model(model) for model in offer.models],
        "limits": {
            "max_queued": limits.max_queued,
            "max_image_bytes": limits.max_image_bytes,
            "max_image_pixels": limits.max_image_pixels,
            "max_video_bytes": limits.max_video_bytes,
            "max_video_pixels": limits.max_video_pixels,
            "max_video_s": limits.max_video_s,
            "max_priority": limits.max_priority,
            "retention_s": offer.retention_s,
            "image_urls": offer.image_urls,
            "image_paths": offer.image_paths,
        },
        "prompt_enhancer": offer.enhances_prompts,
        "formats": {str(form): list(map(str, codecs)) for form, codecs in written_formats().items()},
    }


def _line(line: ModelLine) -> ModelStatusDocument:
    return {
        "replicas": len(line.replicas),
        "wanted_replicas": line.scale.wanted if line.scale is not None else None,
        "queued": line.queued,
        "running": line.running,
        "seconds_per_work": line.speed.rate,
        "devices": [_device(replica) for replica in (*line.replicas, *line.others)],
    }


def _device(replica: Replica) -> DeviceDocument:
    device: DeviceDocument = {
        "replica": replica.replica_id,
        "device": replica.device,
        "ranks": replica.ranks,
        "health": replica.health,
    }
    if replica.reason:
        device["reason"] = replica.reason
    return device


def _model(model: ModelSettings) -> ModelDocument:
    variant = model.spec
    return {
        "name": model.name,
        "variant": variant.name,
        "tasks": sorted(variant.tasks),
        "distilled": variant.distilled,
        "loras": model.lora_names(),
        "lora_notes": model.lora_remarks(),
        "example_prompts": list(variant.example_prompts),
        "autoscaling": None if model.autoscaling is None else model.autoscaling.model_dump(),
        "defaults": {
            "width": variant.width,
            "height": variant.height,
            "num_frames": variant.num_frames,
            "fps": variant.fps,
            "infer_steps": variant.steps,
            "guidance_scale": variant.guidance_scale,
            "guidance_scale_2": variant.guidance_scale_2,
            "flow_shift": variant.flow_shift,
            "negative_prompt": variant.negative_prompt,
        },
        "limits": {
            "max_pixels": variant.max_area,
            "max_frames": variant.max_frames,
            "size_multiple": variant.size_multiple,
            "max_references": variant.max_references,
            "takes_video": variant.control_blocks > 0,
        },
        "sizes": [_size(choice) for choice in size_choices(variant)],
        "presets": _presets(variant),
    }


def _size(choice: SizeChoice) -> SizeDocument:
    return {"tier": choice.tier, "ratio": choice.ratio, "width": choice.width, "height": choice.height}


def _presets(variant: Variant) -> list[PresetDocument]:
    """Return the presets of a model: a distilled one has its own steps alone."""
    if variant.distilled:
        return [{"name": "fast", "infer_steps": variant.steps}]
    fast = max(round(variant.steps * _FAST), 1)
    return [{"name": "fast", "infer_steps": fast}, {"name": "quality", "infer_steps": variant.steps}]
