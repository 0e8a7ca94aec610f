"""Planning of a video that goes on from an earlier one: what it takes over, and where it begins."""

from collections.abc import Sequence
from dataclasses import replace

from models.variants import Variant
from serve_app.config.model_settings import ModelSettings
from serve_app.media.source_video import SourceVideo
from serve_app.submission.video_order import EarlierVideo, KeptInput, OrderFault, SentVideo, VideoOrder
from serve_app.tasks.continuation import Continuation
from serve_app.tasks.task import Task, TaskSpec
from serve_app.tasks.transitions import Status
from serve_app.tasks.video_output import MAX_FPS, VideoFormat

FIELD = "continue_from"
SENT = f"{FIELD}.video"
_FRAGMENTS = f"{FIELD}.fragments"


def source_of(spec: TaskSpec) -> EarlierVideo | SentVideo | None:
    """Return what an order goes on from that makes a video again; None for one that begins by itself."""
    before = spec.continues
    if before is None:
        return None
    if not before.task_id:
        return SentVideo(KeptInput(before.key))
    return EarlierVideo(before.task_id, len(before.kept_ends) or None)


def continuing(order: VideoOrder, source: Task, models: Sequence[ModelSettings]) -> VideoOrder:
    """Return the order with what it takes over from ``source``, and with the fragments that are to be made.

    That is size and frame rate, and where nothing else is sent the prompt, and of the same model the length.
    Raises ``OrderFault`` for what contradicts the source.
    """
    _check_source(source)
    check_pictures(order)
    spec = source.spec
    for field, own in (("width", spec.width), ("height", spec.height), ("fps", spec.fps)):
        if getattr(order, field) not in (None, own):
            raise OrderFault(field, f"the video that this one goes on from has {own}; leave it out.")
    if order.lines is not None:
        size = f"{spec.width}x{spec.height}"
        raise OrderFault("lines", f"the video that this one goes on from has {size}; leave it out.")
    name = order.model or (source.model if source.model in {model.name for model in models} else None)
    same_length = name == source.model and order.num_frames is None and order.duration_s is None
    return replace(
        order,
        prompt=order.prompt or ("" if order.fragment_prompts else spec.prompt),
        width=spec.width,
        height=spec.height,
        aspect=None,
        fps=spec.fps,
        model=name,
        num_frames=spec.num_frames if same_length else order.num_frames,
        num_fragments=_fragments_to_make(order, source),
    )


def like_sent(order: VideoOrder, video: SourceVideo, variant: Variant) -> VideoOrder:
    """Return the order with the frame rate of a client's own video, and the size if the model makes that."""
    fps = round(video.fps or 0)
    if order.fps is None and 1 <= fps <= MAX_FPS:
        order = replace(order, fps=fps)
    is_open = not order.has_size and order.aspect is None and order.lines is None
    fitted = all(side % variant.size_multiple == 0 for side in (video.width, video.height))
    if is_open and fitted and video.width * video.height <= variant.max_area:
        order = replace(order, width=video.width, height=video.height)
    return order


def continued_sent(spec: TaskSpec, variant: Variant) -> TaskSpec:
    """Return the spec of a video that goes on from a client's own, of which no more than the tail is known.

    Raises ``OrderFault``.
    """
    tail = _tail(spec, variant)
    new_frames = spec.num_fragments * (spec.num_frames - tail)
    return replace(spec, continues=Continuation(end=tail, tail=tail), video_frames=new_frames)


def check_pictures(order: VideoOrder) -> None:
    """Raise ``OrderFault`` for a picture beside a video to go on from."""
    for field, picture in (("first_frame", order.first_frame), ("last_frame", order.last_frame)):
        if picture is not None:
            raise OrderFault(field, "a video that goes on from another takes no picture; leave it out.")


def continued(spec: TaskSpec, order: VideoOrder, variant: Variant, source: Task) -> TaskSpec:
    """Return the spec of a video that goes on from ``source``. Raises ``OrderFault`` if it cannot."""
    if (spec.width, spec.height) != (source.spec.width, source.spec.height):
        size = f"{source.spec.width}x{source.spec.height}"
        raise OrderFault(FIELD, f"{variant.name} makes no video of {size}, the size of the earlier one.")
    tail = _tail(spec, variant)
    kept = _ends(source)[: _kept(order)]
    end = kept[-1] if kept else source.total_frames
    if end < tail:
        raise OrderFault(
            FIELD, f"{variant.name} goes on from {tail} frames, and the earlier video has {end}."
        )
    going_on = Continuation(end=end, tail=tail, kept_ends=tuple(kept), task_id=source.id)
    new_frames = spec.num_fragments * (spec.num_frames - tail)
    return replace(spec, continues=going_on, video_frames=going_on.kept_frames + new_frames)


def whole_fragments(source: Task) -> int:
    """Return how many fragments of a task's video were made to their end."""
    return len(_ends(source))


def _tail(spec: TaskSpec, variant: Variant) -> int:
    tail = variant.overlap(spec.num_frames)
    if spec.num_frames <= tail:
        raise OrderFault("num_frames", "a video that goes on from another has at least 5 frames.")
    return tail


def _check_source(source: Task) -> None:
    if source.status is not Status.SUCCEEDED or source.artifact is None:
        raise OrderFault(FIELD, "that task has no finished video.")
    form = VideoFormat.of_file(source.artifact) or VideoFormat.MP4
    if not form.codecs:
        raise OrderFault(FIELD, f"that video is a {form}; an mp4 or a webm can be gone on from.")


def _kept(order: VideoOrder) -> int:
    source = order.continue_from
    return source.fragments or 0 if isinstance(source, EarlierVideo) else 0


def _fragments_to_make(order: VideoOrder, source: Task) -> int:
    kept, there = _kept(order), len(_ends(source))
    asked = order.num_fragments
    if kept > there:
        raise OrderFault(_FRAGMENTS, f"that video has {there}.")
    if not kept:
        return asked or 1
    if asked is None:
        asked = kept + len(order.fragment_prompts) if order.fragment_prompts else there
    if asked <= kept:
        raise OrderFault(
            "num_fragments",
            f"must be above the {kept} fragments that are kept: it counts all of the new video.",
        )
    return asked - kept


def _ends(source: Task) -> Sequence[int]:
    """Return the number of frames at the end of each of a video's fragments that were made to their end."""
    spec, before = source.spec, source.spec.continues
    kept = before.kept_ends if before is not None else ()
    if before is not None:
        each = spec.num_frames - before.tail
        ends = [*kept, *(before.kept_frames + each * number for number in range(1, spec.num_fragments + 1))]
    elif spec.num_fragments == 1:
        ends = [spec.num_frames]
    else:
        each = (spec.total_frames - spec.num_frames) // (spec.num_fragments - 1)
        ends = [spec.num_frames + each * number for number in range(spec.num_fragments)]
    return [end for end in ends if end <= source.total_frames]
