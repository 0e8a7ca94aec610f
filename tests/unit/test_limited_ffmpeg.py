"""What ends ffmpeg tells whose fault it is: the file's, or the machine's."""

import resource
import subprocess
from pathlib import Path

import imageio_ffmpeg
import pytest

from serve_app.errors import FfmpegKilled
from serve_app.media.limited_ffmpeg import run_limited

ENDLESS = "while :; do :; done"


def run(tmp_path: Path, *command: str, cpu_s: float = 1) -> bytes | None:
    (tmp_path / "file").touch()
    with (tmp_path / "file").open("rb") as file:
        return run_limited(command, file, subprocess.DEVNULL, limit_bytes=2**29, cpu_s=cpu_s)


def used_by_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_what_a_child_writes_is_returned(tmp_path: Path) -> None:
    assert run(tmp_path, "/bin/echo", "frames") == b"frames\n"


@pytest.mark.parametrize("end", ["exit 1", "kill -SEGV $$", "kill -ABRT $$", f"trap '' XCPU; {ENDLESS}"])
def test_a_child_that_fails_or_takes_too_long_has_read_something_bad(tmp_path: Path, end: str) -> None:
    assert run(tmp_path, "/bin/sh", "-c", end) is None


def test_a_limit_of_less_than_the_second_that_the_kernel_counts_in_is_kept(tmp_path: Path) -> None:
    before_s = used_by_children_s()
    assert run(tmp_path, "/bin/sh", "-c", ENDLESS, cpu_s=0.2) is None
    assert 0.1 < used_by_children_s() - before_s < 0.6


@pytest.mark.slow
def test_an_ffmpeg_that_takes_too_long_and_ends_by_itself_has_read_something_bad(tmp_path: Path) -> None:
    source = ("-f", "lavfi", "-i", "testsrc2=s=64x64")
    command = imageio_ffmpeg.get_ffmpeg_exe(), "-v", "quiet", *source, "-f", "null", "-"
    assert run(tmp_path, *command) is None


@pytest.mark.parametrize("end", ["kill -KILL $$", "kill -TERM $$", "exit 255"])
def test_a_child_that_somebody_else_ends_tells_nothing_of_the_file(
    tmp_path: Path, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(FfmpegKilled):
        run(tmp_path, "/bin/sh", "-c", end)
    assert "by no fault of that: it ended with the status" in caplog.text


def test_a_child_that_cannot_be_started_tells_nothing_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(FfmpegKilled):
        run(tmp_path, "a" * 2**21)
