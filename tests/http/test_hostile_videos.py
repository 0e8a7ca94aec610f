"""Hostile videos: each ends in a refusal, within the memory and the time that its reader is given."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.errors import VideoUnreadable
from serve_app.media.video_decoding import measure
from testbed.hostile_videos import BENIGN, write_videos

ROOT = Path(__file__).parents[2]
MOST_MB = 200
LIMITED = """#!/bin/sh
{ ulimit -v; ulimit -t; ulimit -s; ulimit -c; } > "%s"
"""


def test_each_is_refused_and_neither_ffmpeg_nor_the_service_takes_much_memory(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    names = set(write_videos(tmp_path / "videos"))
    done = subprocess.run(
        [sys.executable, "-m", "tests.http.hostile_work", str(tmp_path), str(tmp_path / "videos")],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    answers = {name: tuple(answer) for name, answer in found["answers"].items()}
    assert answers.pop(BENIGN) == (200, None), "a 4K video is within the limits"
    assert answers.keys() == names - {BENIGN} and len(answers) > 15
    expected = dict.fromkeys(answers, (400, "video_unreadable")) | {"endless.mp4": (413, "too_large")}
    assert answers == expected
    assert found["left"] == ["earlier.mkv"], "that of the benign one"
    assert found["child_mb"] <= MOST_MB
    assert found["own_mb"] <= MOST_MB / 2


def test_the_reader_of_a_video_gets_its_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ffmpeg, told = tmp_path / "ffmpeg", tmp_path / "told"
    ffmpeg.write_text(LIMITED % told)
    ffmpeg.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(ffmpeg))
    with pytest.raises(VideoUnreadable):
        measure(b"GIF89a" + bytes(10), max_pixels=8_900_000, max_s=60)
    memory_kb, cpu_s, stack_kb, core = told.read_text().split()
    assert int(memory_kb) * 1024 <= 360 * 10**6 and cpu_s == "1" and (stack_kb, core) == ("1024", "0")
