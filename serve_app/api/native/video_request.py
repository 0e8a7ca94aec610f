"""The native surface's video request, one model for JSON bodies and for forms, and the order made of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ConfigDict, Field

from models.limits import MAX_REFERENCES
from models.video_spec import LoraUse
from serve_app.api.http.output_fields import OutputFields
from serve_app.api.http.request_model import RequestModel, Text
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
    LoraName,
    Loras,
    LoraStrength,
    ModelName,
    NegativePrompt,
    Pictures,
    Prompt,
    Resolution,
    Seconds,
    Seed,
    Shape,
    Side,
    Source,
    Steps,
    Unset,
    parse_aspect,
    parse_lines,
    parse_size,
    without_default,
)
from serve_app.errors import InvalidField
from serve_app.submission.field_words import FieldWords
from serve_app.submission.video_order import EarlierVideo, Picture, SentVideo, VideoOrder

_ONE_PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAA"
    "CklEQVR42mNgAAAAAgAB5Sfe/AAAAABJRU5ErkJggg=="
)
"""The smallest picture there is, for the documentation: short, and taken as it stands."""


def _field(description: str, example: object) -> Any:
    return Field(default=None, description=description, examples=[example], json_schema_extra=without_default)


_WORDS = FieldWords(
    {
        "first_frame": "image_path",
        "last_frame": "last_frame_path",
        "references": "reference_images",
        "aspect": "aspect_ratio",
        "lines": "resolution",
        "steps": "infer_steps",
        "duration_s": "video_duration",
        "save_path": "save_result_path",
    }
)


class VideoFields(RequestModel):
    """Fields of a request that say what the video shows and how it is made."""

    prompt: Prompt = Field(
        default="",
        description="What the video shows; surrounding blanks are dropped. May be empty beside an image, "
        "`fragment_prompts` or `continue_from`.",
        examples=["A white cat sitting by the beach under sunset sky"],
        json_schema_extra=without_default,
    )
    negative_prompt: NegativePrompt | Unset = _field(
        "What the video should not show; default: the model's own.", "blurry, low quality, static"
    )
    enhance_prompt: bool = Field(
        default=False,
        description="Have a chat model write the prompt out before the run, where the service has one; the "
        "status then has `revised_prompt`.",
        examples=[False],
    )
    image_path: Text = Field(
        default="",
        description="The first frame: base64, a `data:` URL, an http(s) URL where the service reads those, "
        "or a file under one of its input folders. JPEG, PNG, WebP, AVIF or HEIC. Makes it image-to-video.",
        examples=[_ONE_PIXEL],
    )
    last_frame_path: Text = Field(
        default="",
        description="The last frame, in the same forms; for a model that takes one, beside a first.",
        examples=[""],
    )
    reference_images: Pictures = _field(
        "Up to four pictures of subjects that are to appear in the video, in the same forms; they are no "
        "frames of it. For a model that takes them.",
        [],
    )
    video: Text = Field(
        default="",
        description="A video to change, in place of a first frame: MP4, MOV, WebM, Matroska or GIF, in the "
        "same forms. For a model that takes one. Without a size and a length it decides them.",
        examples=[""],
    )
    mask: Text = Field(
        default="",
        description="A video, in the same forms, white where `video` is to change and black where it stays. "
        "Default: everything changes, guided by what the video shows. A shorter one keeps its last frame.",
        examples=[""],
    )
    control_scale: Control | Unset = _field(
        "How strongly the video, the frames and the references steer, for a model that takes a video.", 1.0
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
        "Same seed, same build: same video. Default, or -1: drawn, and reported in the status.", 42
    )
    height: Side | Unset = _field(
        "Pixels, rounded down to what the model makes. Default: the image's shape, or the model's own.", 480
    )
    width: Side | Unset = _field("Pixels, rounded down to what the model makes.", 832)
    size: EitherSize = _field(
        "Width and height in one, or [height, width]; each side from 16 to 4096.", "832x480"
    )
    aspect_ratio: Aspect = _field(
        "Width to height where no size is sent, up to 16:1, in the model's own area; wins over an image's "
        "shape.",
        "16:9",
    )
    resolution: Resolution = _field(
        "How fine, where no size is sent: 480p, 720p or other lines of a wide frame, in whichever shape; "
        "default: as the model's own size.",
        "480p",
    )
    target_shape: Shape = _field("Height and width in one; each from 16 to 4096.", [480, 832])
    num_fragments: Fragments | Unset = _field(
        "Consecutive fragments of that length, each going on from the end of the one before; one video. "
        "Default: 1.",
        1,
    )
    continue_from: Source = _field(
        "A finished video of yours to go on from, by its task: from its last frames, or with `fragments` "
        "from the end of so many of its first ones, which the new video keeps. Or a video of your own as "
        "`video`, from its last frames.",
        {"task_id": "beach-1", "fragments": 2},
    )
    fragment_prompts: FragmentPrompts = _field(
        "A prompt for each fragment, in place of `prompt`, which an empty one stands for. Default of "
        "`num_fragments`: their number.",
        [],
    )
    guidance_scale: Guidance | Unset = _field(
        "How strongly the prompt steers; up to 1 is without guidance, as distilled models always run, which "
        "refuse more.",
        5.0,
    )
    guidance_scale_2: Guidance | Unset = _field(
        "The same for the low-noise expert; refused by a model with one expert.", 3.0
    )
    flow_shift: FlowShift | Unset = _field("Shift of the noise schedule.", 5.0)
    model: ModelName | Unset = _field("A served model's name; default: the first one able to do it.", "demo")
    lora_name: LoraName | Unset = _field(
        "A LoRA that the model is served with, with or without `.safetensors`; one that cannot be applied is "
        "refused, and the model's `lora_notes` say why.",
        "",
    )
    lora_strength: LoraStrength | Unset = _field("How much of the LoRA.", 1.0)
    loras: Loras = Field(
        default=[],
        description="Several LoRAs, each with a strength of its own; in place of `lora_name`. For a model "
        "with two experts `strength_low` may differ.",
        examples=[[{"name": "anime", "strength": 0.8}]],
        json_schema_extra=without_default,
    )


# The fields of the last base come first.
class VideoRequest(OutputFields, VideoFields):
    """Request for a video. Omitted fields take the model's defaults, which `/v1/service/metadata` lists."""

    model_config = ConfigDict(json_schema_extra={"required": ["prompt"]})

    def words(self) -> FieldWords:
        """Return the field names of this request, which has several spellings of size and length."""
        spelt = {}
        if self.num_frames is None and self.target_video_length is not None:
            spelt["num_frames"] = "target_video_length"
        if self.width is None and self.height is None:
            whole = "size" if self.size else "target_shape" if self.target_shape else None
            if whole is not None:
                spelt |= {"width": whole, "height": whole}
        if self.lora_name:
            spelt |= {"loras": "lora_name", "loras[0].name": "lora_name"}
        return _WORDS.but(**spelt)

    def order(
        self, *, uploads: Mapping[str, Picture], notes: tuple[str, ...], idempotency_key: str | None
    ) -> VideoOrder:
        """Return the order of this request; ``uploads`` are files by the field that each stands for.

        Raises ``InvalidField`` where two fields contradict each other.
        """
        width, height = _size(self)
        order = VideoOrder(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            enhance_prompt=self.enhance_prompt,
            first_frame=_picture("image_path", self.image_path, uploads),
            last_frame=_picture("last_frame_path", self.last_frame_path, uploads),
            references=_references(self.reference_images or [], uploads),
            video=_picture("video", self.video, uploads),
            mask=_picture("mask", self.mask, uploads),
            control_scale=self.control_scale,
            width=width,
            height=height,
            aspect=parse_aspect(self.aspect_ratio) if self.aspect_ratio else None,
            lines=parse_lines(self.resolution) if self.resolution else None,
            num_frames=_num_frames(self),
            duration_s=self.video_duration,
            num_fragments=self.num_fragments,
            continue_from=_earlier(self, uploads),
            fragment_prompts=tuple(self.fragment_prompts or ()),
            fps=self.fps,
            steps=self.infer_steps,
            guidance_scale=self.guidance_scale,
            guidance_scale_2=self.guidance_scale_2,
            flow_shift=self.flow_shift,
            seed=None if self.seed == DRAWN_SEED else self.seed,
            model=self.model,
            loras=_loras(self),
            idempotency_key=idempotency_key,
            notes=notes,
            sent=self.model_dump(exclude_unset=True),
        )
        return self.with_output(order)


def _picture(field: str, text: str, uploads: Mapping[str, Picture]) -> Picture | None:
    if field not in uploads:
        return text or None
    if text:
        raise InvalidField(field, f"{field}: a file was uploaded too; send only one.")
    return uploads[field]


def _references(texts: Sequence[str], uploads: Mapping[str, Picture]) -> tuple[Picture, ...]:
    field = "reference_images"
    uploaded = tuple(picture for name, picture in uploads.items() if name.startswith(f"{field}["))
    if uploaded and texts:
        raise InvalidField(field, f"{field}: images were uploaded too; send only one of both.")
    if len(uploaded) > MAX_REFERENCES:
        raise InvalidField(field, f"{field}: must be at most {MAX_REFERENCES} images.")
    return uploaded or tuple(texts)


def _loras(request: VideoRequest) -> tuple[LoraUse, ...]:
    if not request.lora_name:
        return tuple(LoraUse(_stem(lora.name), lora.strength, lora.strength_low) for lora in request.loras)
    if request.loras:
        raise InvalidField("loras", "loras: lora_name was sent too; send only one.")
    name, strength = _stem(request.lora_name), request.lora_strength
    return (LoraUse(name) if strength is None else LoraUse(name, strength),)


def _stem(name: str) -> str:
    return name.removesuffix(".safetensors")  # LightX2V's clients name the file


def _size(request: VideoRequest) -> tuple[int | None, int | None]:
    """Return width and height in pixels from any of their spellings; None for a side that was not sent."""
    asked: list[tuple[int | None, int | None]] = [(request.width, request.height)]
    if request.target_shape:
        asked.append((request.target_shape[1], request.target_shape[0]))
    if request.size:
        asked.append(parse_size(request.size))
    widths = {width for width, _ in asked if width}
    heights = {height for _, height in asked if height}
    if len(widths) > 1 or len(heights) > 1:
        field = "size" if request.size else "target_shape"
        raise InvalidField(field, f"{field}: contradicts the size that another field asks for.")
    return next(iter(widths), None), next(iter(heights), None)


def _earlier(request: VideoRequest, uploads: Mapping[str, Picture]) -> EarlierVideo | SentVideo | None:
    source = request.continue_from
    upload = uploads.get("continue_from.video")
    if upload is not None and source is not None:
        raise InvalidField("continue_from", "continue_from: a file was uploaded too; send only one.")
    if upload is not None:
        return SentVideo(upload)
    return None if source is None else source.ordered


def _num_frames(request: VideoRequest) -> int | None:
    if len({request.num_frames, request.target_video_length} - {None}) > 1:
        raise InvalidField("target_video_length", "target_video_length: contradicts num_frames.")
    return request.num_frames or request.target_video_length
