"""ffmpeg and the formats that it writes."""

from collections.abc import Iterator

import imageio_ffmpeg

from serve_app.doctor.finding import Finding
from serve_app.media.encoders import listed_encoders, written_formats
from serve_app.media.ffmpeg_program import ffmpeg_program
from serve_app.tasks.video_output import Codec, VideoFormat

_ANOTHER = "Name another ffmpeg in IMAGEIO_FFMPEG_EXE, or install imageio-ffmpeg, which has one."


def of_video() -> Iterator[Finding]:
    """Yield what is found about ffmpeg."""
    try:
        program = ffmpeg_program()
    except RuntimeError:
        yield Finding("ffmpeg", "problem", "there is none", _ANOTHER)
        return
    if not listed_encoders():
        yield Finding("ffmpeg", "problem", f"{program} does not run", _ANOTHER)
        return
    yield Finding("ffmpeg", "ok", f"{imageio_ffmpeg.get_ffmpeg_version()} at {program}")
    yield encoders()


def encoders() -> Finding:
    """Return which formats and codecs are written."""
    written = written_formats()
    codecs = {codec for each in written.values() for codec in each}
    seen = f"{', '.join(written)} with {', '.join(sorted(codecs))}"
    missing = [*(form for form in VideoFormat if form not in written), *sorted({*Codec} - codecs)]
    if Codec.H264 not in codecs:
        return Finding("encoders", "problem", f"{seen}; no h264", _ANOTHER)
    if missing:
        advice = f"Requests for {', '.join(missing)} are refused. {_ANOTHER}"
        return Finding("encoders", "warning", f"{seen}; not {', '.join(missing)}", advice)
    return Finding("encoders", "ok", seen)
