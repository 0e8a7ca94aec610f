"""ffmpeg as the service finds it and asks it: what a signal may end is not remembered as missing."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import pytest

from serve_app.media.encoders import listed_encoders
from serve_app.media.ffmpeg_program import ffmpeg_program

LISTED = "Encoders:\n V..... = Video\n ------\n V....D libx264  libx264\n"


@pytest.fixture
def asked_anew() -> Iterator[None]:
    listed_encoders.cache_clear()
    yield
    listed_encoders.cache_clear()


def test_ffmpeg_is_found_without_running_anything() -> None:
    program = (
        "import sys; from serve_app.media.ffmpeg_program import ffmpeg_program; "
        "sys.addaudithook(lambda event, _: event != 'subprocess.Popen' or sys.exit('it runs something')); "
        "print(ffmpeg_program())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == imageio_ffmpeg.get_ffmpeg_exe() == ffmpeg_program()


def test_the_one_that_is_named_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/opt/ffmpeg")
    assert ffmpeg_program() == "/opt/ffmpeg"


def test_an_ffmpeg_that_is_killed_while_it_lists_its_encoders_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked_anew: None
) -> None:
    ffmpeg, killed = tmp_path / "ffmpeg", tmp_path / "killed"
    ffmpeg.write_text(
        f"#!/bin/sh\nif [ ! -e {killed} ]; then : > {killed}; kill -9 $$; fi\ncat <<'END'\n{LISTED}END\n"
    )
    ffmpeg.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(ffmpeg))
    assert "libx264" in listed_encoders() and killed.exists()
