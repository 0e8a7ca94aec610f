"""Decoding of clients' videos: the end of each kind is found, whatever its header says."""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from serve_app.media.video_decoding import conform_end, measure, read_clip

SHADE = 8
"""By how much each frame is lighter than the one before, of 256."""


def graded(target: Path, *arguments: str, rate: int, frames: int) -> Path:
    """Return a video whose every frame has a shade of its own, up to 31 frames back."""
    source = f"nullsrc=s=96x64:r={rate},format=gray,geq=lum=mod(N*{SHADE}\\,256),format=yuv420p"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", source]
    subprocess.run([*command, "-frames:v", str(frames), *arguments, str(target)], check=True)
    return target


@pytest.mark.parametrize(
    ("name", "rate", "frames", "arguments"),
    [
        ("a.mp4", 25, 313, ("-c:v", "libx264", "-bf", "3", "-g", "250")),  # reordered, one keyframe far back
        ("b.mp4", 30, 60, ("-c:v", "mpeg4")),
        ("c.gif", 10, 50, ()),
        ("d.mkv", 1, 12, ("-c:v", "libx264")),  # frames last a second
    ],
)
@pytest.mark.parametrize("fps", [None, 16])
def test_the_last_frames_of_a_video_are_found(
    tmp_path: Path, name: str, rate: int, frames: int, arguments: tuple[str, ...], fps: int | None
) -> None:
    video = measure(graded(tmp_path / name, *arguments, rate=rate, frames=frames), max_pixels=10**6, max_s=60)
    assert video.fps == rate
    count = conform_end(video, tmp_path / "end.mkv", width=96, height=64, fps=fps or rate, frames=9, max_s=60)
    assert 9 <= count < 80
    shades = read_clip(tmp_path / "end.mkv", (count, 64, 96), is_mask=False).mean((1, 2, 3))[-9:]
    steps = SHADE * rate / (fps or rate)
    assert abs(shades[-1] - (frames - 1) * SHADE % 256) < SHADE + 2
    off = (np.diff(shades) - steps + 128) % 256 - 128
    assert np.abs(off).max() <= (3 if fps is None else max(steps, SHADE) + 3)
