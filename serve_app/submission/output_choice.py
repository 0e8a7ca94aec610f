"""Choice of the form of a video's file: what was asked for, as far as this ffmpeg can write it."""

from collections.abc import Iterable
from dataclasses import replace

from serve_app.media.encoders import written_formats
from serve_app.submission.video_order import OrderFault, VideoOrder
from serve_app.tasks.task import TaskSpec
from serve_app.tasks.video_output import MAX_GIF_FPS, MAX_PICTURES, Codec, VideoFormat, VideoOutput


def output_of(order: VideoOrder, spec: TaskSpec) -> VideoOutput:
    """Return the form of the file of an order. Raises ``OrderFault`` for one that cannot be made.

    Runs ffmpeg when a format or a codec is named for the first time.
    """
    output = VideoOutput(order.format or VideoFormat.MP4, order.codec, order.crf, order.return_last_frame)
    if order.format is not None or order.codec is not None:
        output = _written(order, output)
    if not output.format.codecs:
        _check_pictures(output.format, spec)
    codec = output.used_codec
    if order.crf is not None and codec is None:
        raise OrderFault("crf", f"a {output.format} has none; leave it out.")
    if order.crf is not None and codec is not None and not 0 <= order.crf <= codec.max_crf:
        raise OrderFault("crf", f"must be a whole number from 0 to {codec.max_crf} for {codec}.")
    return output


def _written(order: VideoOrder, output: VideoOutput) -> VideoOutput:
    """Return the output with a codec that its format can hold and ffmpeg has."""
    written, form = written_formats(), output.format
    if form not in written:
        there = f"it writes {_list(written)}" if written else "it writes nothing"
        raise OrderFault("format", f"this service's ffmpeg cannot write {form}; {there}.")
    if output.codec is None:
        # Of a plain MP4 nothing is said; else the usual codec, or the next where ffmpeg lacks that.
        return output if form is VideoFormat.MP4 else replace(output, codec=next(iter(written[form]), None))
    if not form.codecs:
        raise OrderFault("codec", f"a {form} has none; leave it out.")
    if output.codec not in form.codecs:
        raise OrderFault("codec", f"a {form} holds {_list(form.codecs, 'or')}, not {output.codec}.")
    if output.codec not in written[form]:
        raise OrderFault(
            "codec", f"this service's ffmpeg has no {output.codec}; for {form} it has {_list(written[form])}."
        )
    return output


def _check_pictures(form: VideoFormat, spec: TaskSpec) -> None:
    if spec.total_frames > MAX_PICTURES:
        raise OrderFault(
            "format", f"a {form} has at most {MAX_PICTURES} frames, and this video {spec.total_frames}."
        )
    if form is VideoFormat.GIF and spec.fps > MAX_GIF_FPS:
        raise OrderFault("fps", f"a gif has at most {MAX_GIF_FPS} frames a second.")


def _list(words: Iterable[VideoFormat] | Iterable[Codec], joined_by: str = "and") -> str:
    *others, last = words
    return f"{', '.join(others)} {joined_by} {last}" if others else str(last)
