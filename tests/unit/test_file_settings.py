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
from PIL import Image

from models.engine import Generation, GenerationRequest
from models.phase import OnPhase, untold
from models.video_spec import LoraUse
from serve_app.files.local_artifacts import LocalArtifacts
from serve_app.files.output_paths import OutputPaths
from serve_app.media.file_comment import comment_of
from serve_app.media.file_settings import request_fields, settings_comment, settings_in
from serve_app.media.source_image import SourceImage
from serve_app.media.video_encoding import VideoEncoding
from serve_app.media.video_writer import VideoWriter
from serve_app.replica.run import Outcome, Run
from serve_app.tasks.video_output import VideoFormat, VideoOutput
from testbed.paced_engine import PacedEngine, PacedGeneration
from tests.http.http_service import settings
from tests.unit.run_stage import SPEC, TASK, Coordinator, execute

ODD = 'a "cat"; 猫\U0001f431 = #1\\\n[STREAM]\r\ttitle=x' + "\U0001f431" * 4000
LORAS = (LoraUse("anime", 0.8), LoraUse("late", 1.0, 0.5))
WHOLE = replace(SPEC, prompt=ODD, loras=LORAS, guidance_scale_2=3.0)


def written(path: Path, comment: str | None, *, frames: int = 3) -> Path:
    form = VideoFormat.of_file(path)
    assert form is not None
    encoding = VideoEncoding().of(VideoOutput(form))
    with VideoWriter(path, width=64, height=48, fps=16, encoding=encoding, comment=comment) as writer:
        shades = np.arange(frames, dtype=np.uint8) * 40
        writer.write(np.broadcast_to(shades[:, None, None, None], (frames, 48, 64, 3)))
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


@pytest.mark.parametrize(("name", "frames"), [("a.webm", 3), ("a.gif", 3), ("a.webp", 3), ("a.webp", 1)])
def test_pictures_and_webms_hold_settings_and_play_as_before(tmp_path: Path, name: str, frames: int) -> None:
    comment = settings_comment(WHOLE, model="m", variant="v")
    with_settings = written(tmp_path / name, comment, frames=frames)
    plain = written(tmp_path / f"plain-{name}", None, frames=frames)
    assert settings_in(with_settings.read_bytes()) == (request_fields(WHOLE, "m"), {})
    assert settings_in(plain.read_bytes()) is None
    if name == "a.webp" and frames == 1:  # a still picture, which that demuxer does not take
        with Image.open(with_settings) as one, Image.open(plain) as other:
            assert one.tobytes() == other.tobytes()
        return
    hashes = [
        through_ffmpeg(path, path.with_suffix(".md5"), "-f", "framemd5") for path in (with_settings, plain)
    ]
    assert hashes[0] == hashes[1] and hashes[0].count(b"\n0,") == frames


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


@pytest.mark.parametrize("form", list(VideoFormat))
def test_damaged_files_are_read_to_no_harm(tmp_path: Path, form: VideoFormat) -> None:
    video = written(tmp_path / f"a{form.suffix}", "holiday").read_bytes()
    assert comment_of(video) == "holiday"
    chance = np.random.default_rng(1)
    for end in chance.integers(0, len(video), 100):
        comment_of(video[:end])
    for at in chance.integers(0, len(video) - 4, 300):
        comment_of(video[:at] + chance.bytes(4) + video[at + 4 :])


XMP = b"<dc:description><rdf:Alt><rdf:li>x</rdf:li>"
TAGS = b"\x12\x54\xc3\x67\x94\x73\x73\x91\x67\xc8\x8e\x45\xa3\x87COMMENT\x44\x87\x81x"


@pytest.mark.parametrize(
    ("head", "filler", "comment"),
    [
        (b"", b"\0\0\0\0moov", b""),
        (b"", b"\0\0\0\x08free", b""),
        (b"GIF89a" + bytes(7), b"!\xf9\0", b"!\xfe\x01x\0"),
        (b"RIFF\0\0\0\0WEBP", b"VP8 \0\0\0\0", b"XMP " + len(XMP).to_bytes(4, "little") + XMP),
        (b"\x1aE\xdf\xa3\x80\x18\x53\x80\x67\xff", b"\xec\x80", TAGS),
        (b"\x1aE\xdf\xa3\x80\x18\x53\x80\x67\xff", TAGS.replace(b"C", b"K"), TAGS),
        (b"\x1aE\xdf\xa3\x80", b"\x18\x53\x80\x67\xff\x12\x54\xc3\x67\xff\x73\x73\xff\x67\xc8\xff", b""),
    ],
    ids=["empty", "boxes", "extensions", "chunks", "elements", "tags", "nested"],
)
def test_of_a_file_with_endless_parts_only_the_first_are_looked_at(
    head: bytes, filler: bytes, comment: bytes
) -> None:
    assert not comment or comment_of(head + 10 * filler + comment) == "x"
    assert comment_of(head + 100_000 * filler + comment) is None


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


@pytest.mark.parametrize("form", list(VideoFormat))
@pytest.mark.parametrize("variant", ["demo", None])
async def test_a_run_writes_its_settings_into_the_file_where_that_is_wanted(
    tmp_path: Path, variant: str | None, form: VideoFormat
) -> None:
    artifacts = LocalArtifacts(OutputPaths(tmp_path / "out"), tmp_path / "data")
    picture = SourceImage(np.full((48, 64, 3), 7, np.uint8))
    key = artifacts.put_input("u1", "image.png", picture.to_png())
    output = VideoOutput(form)
    task = replace(TASK, owner="alice", spec=replace(SPEC, image_key=key, output=output))
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
    video = artifacts.attempt_path("u1", 2, form).read_bytes()
    hashes = {"image_sha256": hashlib.sha256(picture.pixels.tobytes()).hexdigest()}
    assert settings_in(video) == (None if variant is None else (request_fields(SPEC, "demo", output), hashes))
    hidden = [b"alice", str(tmp_path).encode(), *([SPEC.prompt.encode()] if variant is None else [])]
    assert not [text for text in hidden if text in video]


def test_each_key_decides_whether_its_videos_hold_their_settings(tmp_path: Path) -> None:
    rules = [
        {"name": name, "sha256": f"{number:064x}", "settings_in_file": name == "open"}
        for number, name in enumerate(("open", "closed"))
    ]
    found = settings(tmp_path, keys=rules)
    assert [found.has_settings_in_file(name) for name in ("open", "closed", "gone")] == [True, False, False]
    assert settings(tmp_path).has_settings_in_file("")
    assert not settings(tmp_path, settings_in_file=False).has_settings_in_file("")
