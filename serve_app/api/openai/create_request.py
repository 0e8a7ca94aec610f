"""Request for a video in OpenAI's words and those that self-hosted servers add, and its order."""

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field

from models.video_spec import LoraUse
from serve_app.api.http.output_fields import OutputFields
from serve_app.api.http.request_model import RequestModel
from serve_app.api.http.video_fields import (
    DRAWN_SEED,
    Aspect,
    Control,
    EitherSize,
    FlowShift,
    Fps,
    FragmentPrompts,
    Fragments,
    Frames,
    Guidance,
    ModelName,
    NegativePrompt,
    Prompt,
    Resolution,
    Seed,
    Side,
    Steps,
    Unset,
    parse_aspect,
    parse_lines,
    parse_size,
    without_default,
)
from serve_app.api.openai.sent_files import SentFiles
from serve_app.api.openai.spellings import (
    AnyLoras,
    AnySource,
    Clip,
    Count,
    FrameImages,
    Length,
    Picture,
    Pictures,
    Video,
    read_json,
)
from serve_app.api.openai.video_document import REMIXED
from serve_app.errors import InvalidField
from serve_app.submission.field_words import FieldWords
from serve_app.submission.video_order import VideoOrder
from serve_app.tasks.task import Task

_MORE = ("extra_body", "extra_params")
_WORDS = FieldWords(
    {
        "steps": "num_inference_steps",
        "duration_s": "seconds",
        "aspect": "aspect_ratio",
        "lines": "resolution",
        "save_path": "save_result_path",
    }
)


def _field(description: str, example: object, default: object = None) -> Any:
    return Field(
        default=default, description=description, examples=[example], json_schema_extra=without_default
    )


class VideoFields(RequestModel):
    """Fields of a request that say what the video shows and how it is made."""

    prompt: Prompt = _field(
        "What the video shows; may be empty beside a picture.", "A white cat sitting by the beach", ""
    )
    model: ModelName | Unset = _field("A served model's name; default: the first one able to do it.", "demo")
    seconds: Length = _field("Length; default: the model's own.", "5")
    duration: Length = _field("Another name of `seconds`.", 5)
    size: EitherSize = _field(
        "Width and height; default: the picture's shape, or the model's own.", "832x480"
    )
    resolution: Resolution = _field(
        "How fine, where no size is sent: 480p, 720p or other lines of a wide frame, in whichever shape; "
        "default: as the model's own size.",
        "480p",
    )
    aspect_ratio: Aspect = _field("Width to height where no size is sent, up to 16:1.", "16:9")
    input_reference: Picture = _field(
        'The first frame: a file, base64, a `data:` URL, an http(s) URL, or `{"image_url": …}` with one. A '
        "file with a video counts as `video`.",
        "",
    )
    image_reference: Picture = _field("Another name of `input_reference`.", "")
    reference_url: Picture = _field("Another name of `input_reference`.", "")
    last_frame_path: Picture = _field(
        "The last frame, in the same forms; for a model that takes one, beside a first.", ""
    )
    frame_images: FrameImages = _field(
        "The first frame, the last one or both, in place of the fields before: each with its `frame_type` "
        "and as `image_url` a picture, in the same forms.",
        [{"type": "image_url", "image_url": {"url": ""}, "frame_type": "first_frame"}],
    )
    input_references: Pictures = _field(
        "Up to four pictures of subjects that are to appear in the video, in the same forms; for a model "
        "that takes them.",
        [],
    )
    reference_images: Pictures = _field("Another name of `input_references`.", [])
    video: Video = _field(
        'A video to change: a file, base64, a URL, `{"video_url": …}`, or `{"id": …}` of an earlier one. For '
        "a model that takes one. Without a size and a length it decides them.",
        "",
    )
    video_reference: Video = _field("Another name of `video`.", "")
    video_url: Video = _field("Another name of `video`.", "")
    mask: Clip = _field(
        "A video, in the same forms, white where `video` is to change and black where it stays. Default: "
        "everything changes.",
        "",
    )
    control_scale: Control | Unset = _field(
        "How strongly the video, the frames and the references steer, for a model that takes a video.", 1.0
    )
    num_fragments: Fragments | Unset = _field(
        "Consecutive fragments of that length, each going on from the end of the one before. Default: 1.", 1
    )
    fragment_prompts: FragmentPrompts = _field(
        "A prompt for each fragment, in place of `prompt`, which an empty one stands for.", []
    )
    continue_from: AnySource = _field(
        "A finished video of yours to go on from: from its last frames, or with `fragments` from the end of "
        "so many of its first ones, which the new video keeps.",
        {"task_id": "beach-1", "fragments": 2},
    )
    negative_prompt: NegativePrompt | Unset = _field("What the video should not show.", "blurry")
    enhance_prompt: bool = _field(
        "Have a chat model write the prompt out before the run, where the service has one; the video then "
        "has `revised_prompt`.",
        False,
        False,
    )
    num_inference_steps: Steps | Unset = _field("Denoise steps; default: the model's own.", 4)
    guidance_scale: Guidance | Unset = _field("How strongly the prompt steers.", 5.0)
    guidance_scale_2: Guidance | Unset = _field("The same for the low-noise expert.", 3.0)
    flow_shift: FlowShift | Unset = _field("Shift of the noise schedule.", 5.0)
    num_frames: Frames | Unset = _field("Frames, of the form 4k+1; wins over `seconds`.", 81)
    fps: Fps | Unset = _field("Frames a second; default: the model's own.", 16)
    width: Side | Unset = _field("Pixels; with `height` in place of `size`.", 832)
    height: Side | Unset = _field("Pixels.", 480)
    seed: Seed | Unset = _field("Same seed, same build: same video. Default, or -1: drawn.", 42)
    lora: AnyLoras = _field('A LoRA: its name, or `{"name": …, "strength": …}`.', "", [])
    loras: AnyLoras = _field("Several of them.", [{"name": "anime", "strength": 0.8}], [])
    n: Count = _field("Videos of a request: one.", 1, 1)


# The fields of the last base come first.
class CreateRequest(OutputFields, VideoFields):
    """Request for a video. Omitted fields take the model's defaults; `extra_body` holds more of the same."""

    model_config = ConfigDict(json_schema_extra={"required": ["prompt"]})

    def files(self, uploads: Mapping[str, bytes]) -> SentFiles:
        """Return the pictures and videos of this request. Raises ``InvalidField`` for one too many."""
        return SentFiles.of(dict(self), uploads)

    def words(self, files: SentFiles) -> FieldWords:
        """Return the field names of this request, which has several spellings of files, LoRAs and size."""
        spelt = dict(files.words)
        if self.size and self.width is None and self.height is None:
            spelt |= {"width": "size", "height": "size"}
        if self.duration is not None:
            spelt["duration_s"] = "duration"
        if self.lora:
            spelt |= {"loras": "lora", "loras[0].name": "lora"}
        return _WORDS.but(**spelt)

    def order(
        self, files: SentFiles, *, notes: tuple[str, ...], idempotency_key: str | None, source: Task | None
    ) -> VideoOrder:
        """Return the order of this request. ``notes``: of fields that are not read.

        ``source``: the earlier video that the request names. Raises ``InvalidField`` where two fields
        contradict each other.
        """
        sent = self.model_dump(mode="json", exclude_unset=True)
        width, height = self._size()
        order = VideoOrder(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            enhance_prompt=self.enhance_prompt,
            first_frame=files.one("first_frame"),
            last_frame=files.one("last_frame"),
            references=files.several("references"),
            video=files.one("video"),
            mask=files.one("mask"),
            control_scale=self.control_scale,
            width=width,
            height=height,
            aspect=parse_aspect(self.aspect_ratio) if self.aspect_ratio else None,
            lines=parse_lines(self.resolution) if self.resolution else None,
            num_frames=self.num_frames,
            duration_s=self._duration_s(),
            num_fragments=self.num_fragments,
            fragment_prompts=tuple(self.fragment_prompts or ()),
            continue_from=self.continue_from.ordered if self.continue_from else None,
            fps=self.fps,
            steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            guidance_scale_2=self.guidance_scale_2,
            flow_shift=self.flow_shift,
            seed=None if self.seed == DRAWN_SEED else self.seed,
            model=self.model,
            loras=self._loras(),
            idempotency_key=idempotency_key,
            notes=notes,
            sent=sent if source is None else {**sent, REMIXED: source.id},
        )
        return self.with_output(order)

    def _size(self) -> tuple[int | None, int | None]:
        if not self.size:
            return self.width, self.height
        width, height = parse_size(self.size)
        if self.width not in (None, width) or self.height not in (None, height):
            raise InvalidField("size", "size: contradicts width and height; send only one of them.")
        return width, height

    def _duration_s(self) -> float | None:
        if None not in (self.duration, self.seconds):
            raise InvalidField("duration", "duration: seconds was sent too; send only one of them.")
        return self.duration if self.seconds is None else self.seconds

    def _loras(self) -> tuple[LoraUse, ...]:
        if self.lora and self.loras:
            raise InvalidField("loras", "loras: lora was sent too; send only one.")
        return tuple(LoraUse(use.name, use.strength, use.strength_low) for use in self.lora or self.loras)


def with_extras(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields of a body together with those in its ``extra_body`` and ``extra_params``.

    Raises ``InvalidField`` for a field that is there twice, with two values.
    """
    found = {name: value for name, value in fields.items() if name not in _MORE}
    for name in _MORE:
        more = read_json(fields.get(name)) or {}
        if not isinstance(more, Mapping):
            raise InvalidField(name, f"{name}: must be an object with further fields.")
        for inner, value in more.items():
            if found.setdefault(inner, value) != value:
                raise InvalidField(
                    name, f"{name}: has a {inner[:40]} other than the request's own; send it once."
                )
    return found
