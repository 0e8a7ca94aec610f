"""Hostile videos: each ends in a refusal, within the memory and the time that its reader is given."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.errors import VideoUnreadable
from serve_app.media.video_decoding import measure
from testbed.hostile_videos import BENIGN, write_videos
from tests.http.http_service import HttpService

ROOT = Path(__file__).parents[2]
MOST_MB = 200
LIMITED = """#!/bin/sh
{ ulimit -v; ulimit -t; ulimit -s; ulimit -c; } > "%s"
"""


@pytest.mark.slow
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


async def test_a_reader_that_the_machine_ends_is_no_fault_of_the_file(
    service: HttpService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = await service.finished()
    ffmpeg = tmp_path / "ffmpeg"
    ffmpeg.write_text("#!/bin/sh\nkill -KILL $$\n")
    ffmpeg.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(ffmpeg))
    avif = (28).to_bytes(4) + b"ftypavif" + bytes(16)
    for files in ({"continue_from_file": b"GIF89a" + bytes(10)}, {"image_file": avif}):
        refused = await service.client.post("/v1/tasks/video/form", data={"prompt": "x"}, files=files)
        assert (refused.status_code, refused.json()["code"]) == (503, "ffmpeg_killed"), refused.text
        assert refused.headers["retry-after"] == "5"
    thumbnail = await service.client.get(f"/v1/videos/{task_id}/content?variant=thumbnail")
    assert (thumbnail.status_code, thumbnail.json()["error"]["code"]) == (503, "ffmpeg_killed")
    assert not [path for path in service.settings.inputs.rglob("*") if path.is_file()]


def test_the_reader_of_a_video_gets_its_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ffmpeg, told = tmp_path / "ffmpeg", tmp_path / "told"
    ffmpeg.write_text(LIMITED % told)
    ffmpeg.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(ffmpeg))
    with pytest.raises(VideoUnreadable):
        measure(b"GIF89a" + bytes(10), max_pixels=8_900_000, max_s=60)
    memory_kb, cpu_s, stack_kb, core = told.read_text().split()
    assert int(memory_kb) * 1024 <= 360 * 10**6 and cpu_s == "1" and (stack_kb, core) == ("1024", "0")
