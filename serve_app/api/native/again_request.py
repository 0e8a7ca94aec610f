"""Request for a video with the settings of an earlier one, of a task or in a file, and changes to them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ConfigDict, Field

from serve_app.api.http.video_fields import TaskId, Unset, without_default
from serve_app.api.native.task_inputs import input_keys
from serve_app.api.native.video_request import VideoRequest
from serve_app.errors import InvalidField
from serve_app.media.file_settings import GOES_ON, request_fields, settings_in
from serve_app.submission.continuation import FIELD, SENT, source_of
from serve_app.submission.video_order import EarlierVideo, KeptInput, Picture
from serve_app.tasks.task import Task

FILE = "file"
"""The upload with the file of the earlier video, in any format that the service writes."""

_PICTURES = {
    "image_path": ("image_file", "image_sha256"),
    "last_frame_path": ("last_frame_file", "last_image_sha256"),
    "video": ("video_file", "video_sha256"),
    "mask": ("mask_file", "mask_sha256"),
    "reference_images": ("reference_files", "reference_sha256"),
    SENT: ("continue_from_file", GOES_ON),
}
"""Fields of pictures and videos, each with its upload and with the entry that a file has for it."""

_REPLACES = {
    "size": ("width", "height"),
    "target_shape": ("width", "height"),
    "aspect_ratio": ("width", "height"),
    "resolution": ("width", "height"),
    "video_duration": ("num_frames",),
    "target_video_length": ("num_frames",),
    "lora_name": ("loras",),
    "prompt": ("fragment_prompts",),
    "fragment_prompts": ("num_fragments",),
    "format": ("codec", "crf"),
    "codec": ("crf",),
    FIELD: (FIELD, "width", "height", "fps"),
}
"""What a change takes the place of besides a setting of its own name."""

_OF_ITS_MODEL = ("infer_steps", "guidance_scale", "guidance_scale_2", "flow_shift")
"""Settings that another model does not take over."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """The settings and the pictures of an earlier video, as fields of a request."""

    fields: Mapping[str, Any]
    pictures: Mapping[str, Picture]
    lacks: frozenset[str] = frozenset()
    """Fields of pictures that it was made from and that are not at hand."""

    @classmethod
    def of_task(cls, task: Task) -> "Earlier":
        """Return those of a task."""
        pictures: dict[str, Picture] = {field: KeptInput(key) for field, key in input_keys(task.spec).items()}
        fields = request_fields(task.spec, task.model, task.spec.output, task.spec.fragment_prompts)
        source = source_of(task.spec)
        if isinstance(source, EarlierVideo):
            fields |= {FIELD: asdict(source)}
        elif source is not None:
            pictures[SENT] = source.file
        return cls(fields, pictures)

    @classmethod
    def of_file(cls, video: bytes) -> "Earlier":
        """Return those in a video's file, unchecked. Raises ``InvalidField`` for one without."""
        found = settings_in(video)
        if found is None:
            raise InvalidField(
                FILE,
                f"{FILE}: holds no settings of this service; it must be a video that it made, as it was.",
            )
        fields, hashes = found
        return cls(fields, {}, frozenset(field for field, (_, name) in _PICTURES.items() if name in hashes))


class AgainRequest(VideoRequest):
    """An earlier video, and the fields of a new request that differ from it; the rest is as it was."""

    model_config = ConfigDict(json_schema_extra={"required": []})

    task_id: TaskId | Unset = Field(
        default=None,
        description="The earlier task; in a form, a video of this service can be sent as `file` instead.",
        examples=["beach-1"],
        json_schema_extra=without_default,
    )
    new_task_id: TaskId | Unset = Field(
        default=None,
        description="The new task's id, which no other task has; default: a new one.",
        examples=["beach-2"],
        json_schema_extra=without_default,
    )

    def applied(
        self, earlier: Earlier, uploads: Mapping[str, bytes]
    ) -> tuple[VideoRequest, Mapping[str, Picture]]:
        """Return the new request, and its pictures by the field that each stands for.

        The earlier fields are checked as a client's own. Raises ``InvalidField``, also for a picture that
        is missing.
        """
        changes = self.model_dump(exclude_unset=True, exclude={"task_id", "new_task_id"})
        if "lora_strength" in changes and "lora_name" not in changes:
            raise InvalidField("lora_strength", "lora_strength: send lora_name with it, or loras instead.")
        given = {field for field in _PICTURES if changes.get(field)} | set(map(_field, uploads))
        changed = changes.keys() | ({FIELD} if SENT in uploads else set())
        if FIELD in changed:
            given.add(SENT)
        for field in sorted(earlier.lacks - given):
            word = _PICTURES[field][0]
            raise InvalidField(
                word,
                f"{word}: the video was made with a picture or a video, which its file does not hold; "
                "send it too.",
            )
        gone = {name for change in changed for name in _REPLACES.get(change, ())}
        if "model" in changes and changes["model"] != earlier.fields.get("model"):
            gone |= set(_OF_ITS_MODEL)
        kept = {name: value for name, value in earlier.fields.items() if name not in gone}
        own_id = {} if self.new_task_id is None else {"task_id": self.new_task_id}
        request = VideoRequest.read_json({**kept, **changes, **own_id})
        pictures = {
            field: picture for field, picture in earlier.pictures.items() if _field(field) not in given
        }
        return request, {**pictures, **uploads}


def _field(name: str) -> str:
    """Return the field of a picture, which may be an entry of a list."""
    return name.partition("[")[0]
