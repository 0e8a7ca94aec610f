"""The fields of the native surface's video request: one model for JSON bodies and for forms."""

from typing import Any

from pydantic import Field

from serve_app.api.http.request_model import RequestModel, Text
from serve_app.api.http.video_fields import (
    FlowShift,
    Fps,
    Fragments,
    Frames,
    Guidance,
    LoraName,
    LoraStrength,
    ModelName,
    NegativePrompt,
    Priority,
    Prompt,
    SavePath,
    Seconds,
    Seed,
    Shape,
    Side,
    Size,
    Steps,
    TaskId,
    Unset,
    Url,
)

_ONE_PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAA"
    "CklEQVR42mNgAAAAAgAB5Sfe/AAAAABJRU5ErkJggg=="
)
"""The smallest picture there is, for the documentation: short, and taken as it stands."""


def _field(description: str, example: object) -> Any:
    return Field(
        default=None, description=description, examples=[example], json_schema_extra=_without_default
    )


def _without_default(schema: dict[str, Any]) -> None:
    # "default: null" says nothing: what is not sent is the model's own.
    schema.pop("default", None)


class VideoRequest(RequestModel):
    """A video to make. What is not sent is the model's own; `/v1/service/metadata` lists that."""

    prompt: Prompt = Field(
        description="What the video shows; surrounding blanks are dropped.",
        examples=["A white cat sitting by the beach under sunset sky"],
    )
    negative_prompt: NegativePrompt | Unset = _field(
        "What the video should not show; default: the model's own.", "blurry, low quality, static"
    )
    image_path: Text = Field(
        default="",
        description="The first frame: base64, a `data:` URL, an http(s) URL where the service reads those, "
        "or a file under one of its input folders. JPEG, PNG or WebP. Makes it image-to-video.",
        examples=[_ONE_PIXEL],
    )
    last_frame_path: Text = Field(
        default="",
        description="The last frame, in the same forms; for a model that takes one, beside a first.",
        examples=[""],
    )
    infer_steps: Steps | Unset = _field("Denoise steps; default: the model's own, 4 for distilled models.", 4)
    video_duration: Seconds | Unset = _field(
        "Seconds: 4·round(fps·seconds/4)+1 frames are made. Default: the model's own length, about 5 s.", 5
    )
    num_frames: Frames | Unset = _field(
        "Frames, of the form 4k+1 (else the nearest is taken); wins over `video_duration`.", 81
    )
    target_video_length: Frames | Unset = _field("Another name of `num_frames`.", 81)
    fps: Fps | Unset = _field("Frames a second; default: the model's own.", 16)
    seed: Seed | Unset = _field(
        "Same seed, same build: same video. Default: drawn, and reported in the status.", 42
    )
    height: Side | Unset = _field("Pixels, rounded down to what the model makes.", 480)
    width: Side | Unset = _field("Pixels, rounded down to what the model makes.", 832)
    size: Size | Unset = _field("Width and height in one; each side from 16 to 4096.", "832x480")
    target_shape: Shape = _field("Height and width in one; each from 16 to 4096.", [480, 832])
    num_fragments: Fragments = Field(
        default=1,
        description="Consecutive fragments of that length, each going on from the end of the one before; "
        "one video.",
        examples=[1],
    )
    guidance_scale: Guidance | Unset = _field(
        "How strongly the prompt steers; up to 1 is without guidance, as distilled models always run.", 5.0
    )
    guidance_scale_2: Guidance | Unset = _field(
        "The same for the low-noise expert, for models with two experts.", 3.0
    )
    flow_shift: FlowShift | Unset = _field("Shift of the noise schedule.", 5.0)
    model: ModelName | Unset = _field("A served model's name; default: the first one able to do it.", "demo")
    lora_name: LoraName | Unset = _field(
        "A LoRA that the model is served with; an unknown name is refused.", ""
    )
    lora_strength: LoraStrength | Unset = _field("How much of the LoRA.", 1.0)
    priority: Priority = Field(
        default=0, description="Higher goes first, within the service's own limit.", examples=[0]
    )
    callback_url: Url | Unset = _field("Refused: not offered yet.", "")
    save_result_path: SavePath | Unset = _field(
        "A file name under the output root; default: `videos/<task_id>.mp4`.", "cats/beach.mp4"
    )
    task_id: TaskId | Unset = _field("The task's id, which no other task has; default: a new one.", "beach-1")
