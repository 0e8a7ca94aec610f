"""Fields of a request that say what becomes of the video, of one name on every surface."""

from dataclasses import replace
from typing import Any

from pydantic import Field

from serve_app.api.http.request_model import RequestModel
from serve_app.api.http.video_fields import (
    CodecName,
    Crf,
    EventTypes,
    Format,
    Priority,
    SavePath,
    TaskId,
    Unset,
    UploadUrl,
    Url,
    Wait,
    without_default,
)
from serve_app.submission.video_order import VideoOrder
from serve_app.tasks.video_output import Codec, VideoFormat


def _field(description: str, example: object) -> Any:
    return Field(default=None, description=description, examples=[example], json_schema_extra=without_default)


class OutputFields(RequestModel):
    """When the task is run, who is told of it, and which file it leaves."""

    priority: Priority = Field(
        default=0, description="Higher goes first, within the service's own limit.", examples=[0]
    )
    callback_url: Url | Unset = _field(
        "Where a signed message is sent at the task's end (a webhook): an http or https URL of a public "
        "address, for a key with a webhook secret.",
        "",
    )
    callback_events: EventTypes = _field(
        "Which messages: of `task.started`, `task.succeeded`, `task.failed` and `task.cancelled`; default: "
        "all but the first.",
        [],
    )
    upload_url: UploadUrl | Unset = _field(
        "Where the finished video is sent, by PUT: a presigned URL of S3, GCS or Azure, of a service that "
        "offers it. Its query is shown nowhere.",
        "",
    )
    expires_in_s: Wait | Unset = _field(
        "Seconds in which the task must have begun; else it ends as failed, with the code `expired`.", 3600
    )
    format: Format = _field(
        "The file: a video (mp4, webm), a moving picture (gif, webp), or its frames (png-zip); default: mp4.",
        "mp4",
    )
    codec: CodecName = _field(
        "Of an mp4 h264, h265, vp9 or av1, of a webm vp9 or av1; default: the first.", "h264"
    )
    crf: Crf | Unset = _field(
        "Constant rate factor of the codec, 0 to 51, of vp9 and av1 to 63: less is better, and larger.", 18
    )
    return_last_frame: bool = Field(
        default=False,
        description="Keep the last frame, too, as it was made; the status then has `last_frame_url`.",
        examples=[False],
    )
    save_result_path: SavePath | Unset = _field(
        "A file name under the output root; default: `videos/<task_id>.mp4`, or the format's own end.",
        "cats/beach.mp4",
    )
    task_id: TaskId | Unset = _field(
        "The task's id, which no other task has: 1 to 128 of A-Z a-z 0-9 . _ -; default: a new one.",
        "beach-1",
    )

    def with_output(self, order: VideoOrder) -> VideoOrder:
        """Return the order with what these fields ask for."""
        return replace(
            order,
            priority=self.priority,
            callback_url=self.callback_url,
            callback_events=tuple(self.callback_events or ()),
            upload_url=self.upload_url,
            expires_in_s=self.expires_in_s,
            format=VideoFormat(self.format) if self.format else None,
            codec=Codec(self.codec) if self.codec else None,
            crf=self.crf,
            return_last_frame=self.return_last_frame,
            save_path=self.save_result_path,
            task_id=self.task_id,
        )
