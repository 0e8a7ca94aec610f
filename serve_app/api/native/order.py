"""From the native surface's request to an order, and that surface's words for the order's fields."""

from collections.abc import Mapping

from models.video_spec import LoraUse
from serve_app.api.http.video_fields import parse_size
from serve_app.api.native.video_request import VideoRequest
from serve_app.errors import InvalidField
from serve_app.submission.field_words import FieldWords
from serve_app.submission.video_order import Picture, VideoOrder

_WORDS = FieldWords(
    {
        "first_frame": "image_path",
        "last_frame": "last_frame_path",
        "steps": "infer_steps",
        "loras": "lora_name",
        "duration_s": "video_duration",
        "save_path": "save_result_path",
    }
)


def words_of(request: VideoRequest) -> FieldWords:
    """Return the words of this request, which may have spelt its size or length in one of several ways."""
    spelt = {}
    if request.num_frames is None and request.target_video_length is not None:
        spelt["num_frames"] = "target_video_length"
    if request.width is None and request.height is None:
        whole = "size" if request.size else "target_shape" if request.target_shape else None
        if whole is not None:
            spelt |= {"width": whole, "height": whole}
    return _WORDS.but(**spelt)


def order_of(
    request: VideoRequest,
    *,
    uploads: Mapping[str, bytes],
    notes: tuple[str, ...],
    idempotency_key: str | None,
) -> VideoOrder:
    """Return the order of a request; ``uploads`` are files by the field that each stands for.

    Raises ``InvalidField`` where two fields contradict each other.
    """
    width, height = _size(request)
    return VideoOrder(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        first_frame=_picture("image_path", request.image_path, uploads),
        last_frame=_picture("last_frame_path", request.last_frame_path, uploads),
        width=width,
        height=height,
        num_frames=_num_frames(request),
        duration_s=request.video_duration,
        num_fragments=request.num_fragments,
        fps=request.fps,
        steps=request.infer_steps,
        guidance_scale=request.guidance_scale,
        guidance_scale_2=request.guidance_scale_2,
        flow_shift=request.flow_shift,
        seed=request.seed,
        model=request.model,
        loras=_loras(request),
        priority=request.priority,
        save_path=request.save_result_path,
        callback_url=request.callback_url,
        task_id=request.task_id,
        idempotency_key=idempotency_key,
        notes=notes,
        sent=request.model_dump(exclude_unset=True),
    )


def _picture(field: str, text: str, uploads: Mapping[str, bytes]) -> Picture | None:
    if field not in uploads:
        return text or None
    if text:
        raise InvalidField(field, f"{field}: an image was uploaded too; send only one.")
    return uploads[field]


def _loras(request: VideoRequest) -> tuple[LoraUse, ...]:
    if not request.lora_name:
        return ()
    strength = request.lora_strength
    return (LoraUse(request.lora_name) if strength is None else LoraUse(request.lora_name, strength),)


def _size(request: VideoRequest) -> tuple[int | None, int | None]:
    """Return width and height, however they were spelt; None for one that was not sent."""
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


def _num_frames(request: VideoRequest) -> int | None:
    if len({request.num_frames, request.target_video_length} - {None}) > 1:
        raise InvalidField("target_video_length", "target_video_length: contradicts num_frames.")
    return request.num_frames or request.target_video_length
