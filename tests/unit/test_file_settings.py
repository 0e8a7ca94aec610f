"""Settings in a video's file: whole after a copy and a re-encode, and read without trust."""

import hashlib
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from models.engine import Generation, GenerationRequest
from models.phase import OnPhase, untold
from models.video_spec import LoraUse
from serve_app.files.artifacts import LocalArtifacts
from serve_app.files.output_paths import OutputPaths
from serve_app.media.file_settings import request_fields, settings_comment, settings_in
from serve_app.media.mp4_comment import comment_of
from serve_app.media.source_image import SourceImage
from serve_app.media.video_writer import VideoWriter
from serve_app.replica.run import Outcome, Run
from testbed.paced_engine import PacedEngine, PacedGeneration
from tests.http.http_service import settings
from tests.unit.run_stage import SPEC, TASK, Coordinator, execute

ODD = 'a "cat"; 猫\U0001f431 = #1\\\n[STREAM]\r\ttitle=x' + "\U0001f431" * 4000
LORAS = (LoraUse("anime", 0.8), LoraUse("late", 1.0, 0.5))
WHOLE = replace(SPEC, prompt=ODD, loras=LORAS, guidance_scale_2=3.0)


def written(path: Path, comment: str | None) -> Path:
    with VideoWriter(path, width=64, height=48, fps=16, comment=comment) as writer:
        writer.write(np.zeros((3, 48, 64, 3), np.uint8))
    return path


def through_ffmpeg(source: Path, target: Path, *arguments: str) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(source), *arguments, str(target)]
    subprocess.run(command, check=True)
    return target.read_bytes()


def test_settings_survive_a_copy_and_a_re_encode(tmp_path: Path) -> None:
    video = written(tmp_path / "a.mp4", settings_comment(WHOLE, model="m", variant="v"))
    copied = through_ffmpeg(video, tmp_path / "b.mp4", "-c", "copy")
    scaled = through_ffmpeg(video, tmp_path / "c.mp4", "-vf", "scale=32:24")
    expected: tuple[object, object] = (request_fields(WHOLE, "m"), {})
    for data in (video.read_bytes(), video.read_bytes()[:40_000], copied, scaled):
        assert settings_in(data) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4", "c.mp4"]


def test_the_comment_tells_the_settings_and_nothing_else() -> None:
    picture = SourceImage(np.zeros((48, 64, 3), np.uint8))
    comment = json.loads(settings_comment(WHOLE, model="m", variant="v", image=picture))["wan_serve"]
    assert comment.pop("version")
    assert comment == {
        "variant": "v", "model": "m", "prompt": ODD, "negative_prompt": "", "seed": 1, "infer_steps": 4,
        "guidance_scale": 5.0, "guidance_scale_2": 3.0, "flow_shift": 5.0, "width": 64, "height": 48,
        "num_frames": 9, "num_fragments": 1, "fps": 16,
        "loras": [
            {"name": "anime", "strength": 0.8}, {"name": "late", "strength": 1.0, "strength_low": 0.5},
        ],
        "image_sha256": hashlib.sha256(bytes(48 * 64 * 3)).hexdigest(),
    }  # fmt: skip


@pytest.mark.parametrize(
    "comment",
    [
        None,
        "holiday",
        "[]",
        '{"wan_serve": 1}',
        "{",
        "[" * 100_000,
        '{"wan_serve": {"prompt": "x"}}' + " " * 300_000,
    ],
)
def test_a_file_with_another_comment_has_no_settings(tmp_path: Path, comment: str | None) -> None:
    assert settings_in(written(tmp_path / "a.mp4", comment).read_bytes()) is None


def test_of_a_made_up_comment_only_settings_are_taken(tmp_path: Path) -> None:
    comment = '{"wan_serve": {"prompt": 1, "callback_url": "http://x", "image_path": "/etc/passwd"}}'
    assert settings_in(written(tmp_path / "a.mp4", comment).read_bytes()) == ({"prompt": 1}, {})


def test_damaged_files_are_read_to_no_harm(tmp_path: Path) -> None:
    video = bytearray(written(tmp_path / "a.mp4", "holiday").read_bytes())
    assert comment_of(bytes(video)) == "holiday"
    chance = np.random.default_rng(1)
    for end in chance.integers(0, len(video), 100):
        comment_of(bytes(video[:end]))
    for at in chance.integers(0, len(video) - 4, 300):
        comment_of(bytes(video[:at] + chance.bytes(4) + video[at + 4 :]))
    assert comment_of(b"\0\0\0\0moov" * 100_000) is None
    assert comment_of(b"\0\0\0\x08free" * 100_000) is None


async def test_a_run_gets_a_prompt_for_each_fragment_and_writes_them_into_the_file(tmp_path: Path) -> None:
    artifacts = LocalArtifacts(OutputPaths(tmp_path / "out"), tmp_path / "data")
    seen: list[str] = []

    class Reading(PacedEngine):
        def prepare(
            self, request: GenerationRequest, after: Generation | None = None, on_phase: OnPhase = untold
        ) -> PacedGeneration:
            seen.append(request.prompt_of(len(seen)))
            return super().prepare(request, after, on_phase)

    prompts = ("a calm sea", "a storm")
    spec = replace(SPEC, num_fragments=2, video_frames=17, fragment_prompts=prompts)
    run = Run(
        replace(TASK, spec=spec),
        Reading(step_s=0),
        artifacts,
        Coordinator(),
        heartbeat_s=1,
        step_timeout_s=30,
        variant="demo",
    )
    with ThreadPoolExecutor(1) as thread:
        assert await execute(run, thread) is Outcome.PUBLISHED
    assert seen == list(prompts)
    found = settings_in(artifacts.attempt_path("u1", 2).read_bytes())
    assert found is not None and found[0]["fragment_prompts"] == list(prompts)


@pytest.mark.parametrize("variant", ["demo", None])
async def test_a_run_writes_its_settings_into_the_file_where_that_is_wanted(
    tmp_path: Path, variant: str | None
) -> None:
    artifacts = LocalArtifacts(OutputPaths(tmp_path / "out"), tmp_path / "data")
    picture = SourceImage(np.full((48, 64, 3), 7, np.uint8))
    key = artifacts.put_input("u1", "image.png", picture.to_png())
    task = replace(TASK, owner="alice", spec=replace(SPEC, image_key=key))
    run = Run(
        task,
        PacedEngine(step_s=0),
        artifacts,
        Coordinator(),
        heartbeat_s=1,
        step_timeout_s=30,
        variant=variant,
    )
    with ThreadPoolExecutor(1) as thread:
        assert await execute(run, thread) is Outcome.PUBLISHED
    video = artifacts.attempt_path("u1", 2).read_bytes()
    hashes = {"image_sha256": hashlib.sha256(picture.pixels.tobytes()).hexdigest()}
    assert settings_in(video) == (None if variant is None else (request_fields(SPEC, "demo"), hashes))
    assert b"alice" not in video and str(tmp_path).encode() not in video


def test_each_key_decides_whether_its_videos_hold_their_settings(tmp_path: Path) -> None:
    rules = [
        {"name": name, "sha256": f"{number:064x}", "settings_in_file": name == "open"}
        for number, name in enumerate(("open", "closed"))
    ]
    found = settings(tmp_path, keys=rules)
    assert [found.has_settings_in_file(name) for name in ("open", "closed", "gone")] == [True, False, False]
    assert settings(tmp_path).has_settings_in_file("")
    assert not settings(tmp_path, settings_in_file=False).has_settings_in_file("")
