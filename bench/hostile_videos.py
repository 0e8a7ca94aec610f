"""What hostile videos cost before they are refused, beside a benign one of 4K in the same run."""

import argparse
import resource
import tempfile
from collections.abc import Sequence
from pathlib import Path

from serve_app.errors import TooLarge, VideoUnreadable
from serve_app.media.video_decoding import measure
from testbed.hostile_videos import BENIGN, write_videos

_MAX_PIXELS = 8_900_000  # the service's own
_MAX_S = 120.0


def main(arguments: Sequence[str]) -> None:
    """Print for each video ffmpeg's seconds of a processor, and how often those of the benign one that is."""
    parser = argparse.ArgumentParser(prog="bench hostile_videos", description=__doc__)
    parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        videos = dict(write_videos(Path(folder)))
        benign_s, _ = _measured(videos.pop(BENIGN))
        print(f"{BENIGN:<18}{benign_s:6.2f} s")
        for name, video in videos.items():
            cpu_s, outcome = _measured(video)
            print(f"{name:<18}{cpu_s:6.2f} s {cpu_s / benign_s:6.1f} times the benign one  {outcome}")


def _measured(video: Path) -> tuple[float, str]:
    """Return the seconds that measuring a video takes ffmpeg, and what comes of it."""
    before = _children_s()
    try:
        measure(video.read_bytes(), max_pixels=_MAX_PIXELS, max_s=_MAX_S)
        outcome = "taken"
    except (TooLarge, VideoUnreadable) as refusal:
        outcome = str(refusal)
    return _children_s() - before, outcome


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
