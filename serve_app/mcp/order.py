"""What ``submit_video`` takes: each argument, and the field of the service that it is sent as."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Number = Annotated[float, Field(allow_inf_nan=False)]

_PICTURE = "http(s) URL, data: URL or base64"


class _Arguments(BaseModel):
    model_config = ConfigDict(frozen=True)


class Lora(_Arguments):
    """A LoRA that the model is served with."""

    name: str
    strength: Number = 1.0
    strength_low: Number | None = Field(
        default=None, description="In the low-noise expert; default: as strength"
    )


class Source(_Arguments):
    """A video to go on from: of a task, or one of your own."""

    task_id: str = ""
    video: str = Field(default="", description=f"Instead of a task_id: {_PICTURE}")
    fragments: int | None = Field(
        default=None, description="How many of its first fragments the new video keeps; default: none"
    )


def _argument(description: str, default: Any = None, *, field: str | None = None) -> Any:
    """Return a field that is not sent where it has its default; ``field``: the service's name of it."""
    return Field(default=default, description=description, serialization_alias=field)


class Order(_Arguments):
    """A request for a video; each field is an argument, and its alias the field of the native API."""

    prompt: str = Field(
        description="What the video shows; may be empty beside an image, fragment_prompts or continue_from"
    )
    negative_prompt: str = _argument("What it should not show; default: the model's own", "")
    enhance_prompt: bool = _argument(
        "Have a chat model write the prompt out first, where the service has one", False
    )
    image: str = _argument(f"The first frame: {_PICTURE}", "", field="image_path")
    last_image: str = _argument(
        "The last frame, in the same forms; beside a first", "", field="last_frame_path"
    )
    reference_images: list[str] = _argument(
        "Up to four pictures of subjects that are to appear, in the same forms; for a model that takes them",
        [],
    )
    video: str = _argument(
        "A video to change, in the same forms, in place of an image; for a model that takes one", ""
    )
    mask: str = _argument(
        "A video, white where video is to change and black where it stays; default: everything changes", ""
    )
    control_scale: Number | None = _argument("How strongly video, frames and references steer; default: 1")
    seconds: Number | None = _argument("Length; default: the model's own", field="video_duration")
    num_frames: int | None = _argument("Length in frames, in place of seconds")
    fps: int | None = _argument("Frames a second; default: the model's own")
    size: str = _argument("Width x height, such as \"832x480\"; default: the image's or the model's", "")
    aspect_ratio: str = _argument('Width to height in place of a size, such as "16:9"', "")
    resolution: str = _argument('How fine, in place of a size, such as "480p"', "")
    seed: int | None = _argument("Same seed, same video; default: drawn and reported")
    model: str = _argument("A served model's name; default: the first able to do it", "")
    steps: int | None = _argument("Denoise steps; default: the model's own", field="infer_steps")
    guidance_scale: Number | None = _argument("How strongly the prompt steers; default: the model's own")
    guidance_scale_2: Number | None = _argument("The same for the low-noise expert, of a model with two")
    flow_shift: Number | None = _argument("Shift of the noise schedule; default: the model's own")
    loras: list[Lora] = _argument("LoRAs that the model is served with", [])
    num_fragments: int | None = _argument(
        "Consecutive fragments of that length, each going on from the one before; default: 1"
    )
    fragment_prompts: list[str] = _argument("A prompt for each fragment, in place of prompt", [])
    continue_from: Source | None = _argument(
        "A video to go on from: from its last frames, or from the end of the fragments kept"
    )
    priority: int = _argument("Higher goes first, within the service's own limit", 0)
    expires_in_s: Number | None = _argument("Seconds in which the run must have begun, else it fails")
    callback_url: str = _argument("Where the service sends a signed message at the end", "")
    callback_events: list[str] = _argument(
        "Which messages: task.started, task.succeeded, task.failed, task.cancelled; default: the last three",
        [],
    )
    upload_url: str = _argument("Presigned URL that the finished video is sent to by PUT", "")
    format: str = _argument("The file: mp4, webm, gif, webp or png-zip (frames); default: mp4", "")
    codec: str = _argument("Of an mp4 h264, h265, vp9 or av1, of a webm vp9 or av1; default: the first", "")
    crf: int | None = _argument("Constant rate factor of the codec: less is better, and larger")
    return_last_frame: bool = _argument("Keep the last frame, too, as it was made", False)
    save_result_path: str = _argument("A file name under the service's output folder", "")
    task_id: str = _argument("An id for it that no other has; default: a new one", "")

    def fields(self) -> dict[str, Any]:
        """Return what is sent to the service, by its own names."""
        return self.model_dump(by_alias=True, exclude_defaults=True)


NATIVE_NAMES = {name: field.serialization_alias or name for name, field in Order.model_fields.items()}
"""The native API's field of each argument."""
