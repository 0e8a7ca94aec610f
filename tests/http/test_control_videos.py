"""Videos to change and their masks: in every form, hostile ones refused, and seen by a small VACE model."""

import struct
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
import pytest_asyncio

from models.engine import GenerationRequest
from serve_app.media.video_decoding import read_clip
from serve_app.tasks.caller import EVERYONE
from tests.http.http_service import HttpService, as_text, png, refusal_of, running, settings
from tests.http.test_references import MODELS, VACE, Seen, made

TINY: dict[str, Any] = {"prompt": "a red ball", "infer_steps": 1, "seed": 1}
SIZED: dict[str, Any] = {**TINY, "width": 96, "height": 64, "num_frames": 5}


def ffmpeg(target: Path, *arguments: str) -> bytes:
    """Return the file that ffmpeg makes."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *arguments, str(target)]
    subprocess.run(command, check=True)
    return target.read_bytes()


def drawn(
    target: Path, *, size: str = "96x64", rate: int = 16, frames: int = 9, source: str = "testsrc2="
) -> bytes:
    """Return a video of moving patterns, or of one ``source`` of ffmpeg's."""
    return ffmpeg(target, "-f", "lavfi", "-i", f"{source}s={size}:r={rate}", "-frames:v", str(frames))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a video of each container, and with what is none."""
    folder = tmp_path_factory.mktemp("videos")
    drawn(folder / "plain.mp4")
    drawn(folder / "plain.webm", frames=5)
    drawn(folder / "plain.gif", frames=5)
    drawn(folder / "tall.mov", size="60x100", rate=32, frames=34)
    drawn(folder / "white.mkv", frames=1, source="color=white:")
    drawn(folder / "long.mp4", size="16x16", rate=1, frames=3600)
    ffmpeg(folder / "sound.mp4", "-f", "lavfi", "-i", "sine=d=1")
    return folder


@pytest_asyncio.fixture
async def vace(folder: Path, videos: Path) -> AsyncIterator[HttpService]:
    async with running(settings(folder, input_roots=[videos], **MODELS)) as service:
        yield service


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return Seen(tmp_path_factory.mktemp("weights"))


async def test_a_video_comes_in_every_form_and_container(vace: HttpService, videos: Path):
    mp4 = (videos / "plain.mp4").read_bytes()
    kept = []
    for source in (as_text(mp4), f"data:video/mp4;base64,{as_text(mp4)}", "plain.mp4"):
        kept.append((await vace.submit(**SIZED, video=source))["task_id"])
    form = await vace.client.post(
        "/v1/tasks/video/form",
        data={name: str(value) for name, value in SIZED.items()},
        files={"video_file": ("a.mp4", mp4, "video/mp4")},
    )
    assert form.status_code == 200, form.text
    kept.append(form.json()["task_id"])
    clips = []
    for task_id in kept:
        task = await vace.store.get(EVERYONE, task_id)
        assert task.model == "vace" and task.spec.video_key is not None
        assert as_text(mp4) not in str(task.request)
        path = vace.artifacts.input_path(task.spec.video_key)
        clips.append(read_clip(path, (5, 64, 96), is_mask=False))
    assert clips[0].std() > 20 and all(np.array_equal(clips[0], clip) for clip in clips[1:])
    for name in ("plain.webm", "plain.gif"):
        await vace.submit(**SIZED, video=name)


@pytest.mark.slow
async def test_a_video_decides_the_size_and_the_length_that_are_not_sent(vace: HttpService):
    body = await vace.submit(**TINY, video="tall.mov")
    spec = (await vace.store.get(EVERYONE, body["task_id"])).spec
    assert (spec.num_frames, spec.total_frames, spec.fps) == (17, 17, 16)  # of 34 at 32 a second
    assert abs(spec.width / spec.height - 0.6) < 0.03
    longer = await vace.submit(**SIZED | {"num_frames": 81}, video="plain.mp4")
    assert "has 9 frames at 16 a second, so 9 are made" in longer["message"]
    shorter = await vace.store.get(EVERYONE, (await vace.submit(**SIZED, video="plain.mp4"))["task_id"])
    assert shorter.spec.num_frames == 5


def bomb(name: str) -> Callable[[Path], bytes]:
    def of_name(videos: Path) -> bytes:
        plain = (videos / "plain.mp4").read_bytes()
        if name == "truncated":
            return plain[: len(plain) // 3]
        return {
            "hls": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
            "concat": b"ffconcat version 1.0\nfile /etc/passwd\nfile http://127.0.0.1:9/a.mp4\n",
            "magic": b"RIFF\0\0\0\0AVI LIST" + bytes(100),
            "picture": png(),
            "noise": b"\0\0\0\x18ftypisom" + np.random.default_rng(1).bytes(50_000),
            "ebml": b"\x1aE\xdf\xa3" + bytes(1000),
            "long": (videos / "long.mp4").read_bytes(),
            "sound": (videos / "sound.mp4").read_bytes(),
        }[name]

    return of_name


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("mask", 400),
        ("hls", 400),
        ("concat", 400),
        ("magic", 400),
        ("picture", 400),
        ("noise", 400),
        ("ebml", 400),
        ("truncated", 400),
        ("sound", 400),
        ("long", 413),
    ],
)
async def test_a_hostile_video_is_refused_and_leaves_nothing(
    vace: HttpService, videos: Path, name: str, status: int
):
    plain = (videos / "plain.mp4").read_bytes()
    files = {"video_file": plain, "mask_file": bomb("noise")(videos)}
    if name != "mask":
        files = {"video_file": bomb(name)(videos)}
    data = {key: str(value) for key, value in SIZED.items()}
    response = await vace.client.post("/v1/tasks/video/form", data=data, files=files)
    assert response.status_code == status, response.text
    assert refusal_of(response)["code"] == ("too_large" if status == 413 else "video_unreadable")
    assert "/" not in refusal_of(response)["detail"].replace("http://", "")
    assert not [path for path in vace.settings.inputs.rglob("*") if path.is_file()]


async def test_a_video_of_too_many_pixels_is_refused_by_its_stream_not_by_its_header(
    folder: Path, videos: Path
):
    limits = {"max_video_pixels": 40 * 40}
    async with running(settings(folder, limits=limits, **MODELS)) as service:
        plain = (videos / "plain.mp4").read_bytes()
        assert plain.count(struct.pack(">HH", 96, 64)) >= 1
        small = plain.replace(struct.pack(">HH", 96, 64), struct.pack(">HH", 32, 32))
        for data in (plain, small):
            response = await service.client.post("/v1/tasks/video", json={**SIZED, "video": as_text(data)})
            assert (response.status_code, response.json()["code"]) == (400, "video_unreadable")


@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({"mask": "white.mkv"}, 422, "mask"),
        ({"video": "plain.mp4", "model": "plain"}, 422, "video"),
        ({"control_scale": 0.5, "model": "plain"}, 422, "control_scale"),
        ({"video": "plain.mp4", "image_path": as_text(png())}, 422, "video"),
        ({"video": "plain.mp4", "num_fragments": 2}, 422, "num_fragments"),
        ({"video": "../plain.mp4"}, 403, None),
        ({"video": "/etc/passwd"}, 403, None),
        ({"video": "none.mp4"}, 400, None),
        ({"video": "http://127.0.0.1/a.mp4"}, 422, "video"),
        ({"video": "file:///etc/passwd"}, 422, "video"),
    ],
)
async def test_what_cannot_be_done_with_a_video_is_refused(
    vace: HttpService, videos: Path, fields: dict[str, Any], status: int, field: str | None
):
    response = await vace.client.post("/v1/tasks/video", json={**SIZED, **fields})
    assert (response.status_code, response.json().get("field")) == (status, field), response.text
    assert str(videos) not in response.text and str(vace.settings.data_dir) not in response.text


def seen(engine: Seen) -> GenerationRequest:
    assert engine.request is not None
    return engine.request


@pytest.mark.slow
async def test_a_real_model_changes_a_video_where_its_mask_is_white_beside_references(
    vace: HttpService, engine: Seen
):
    same = SIZED | {"video": "plain.mp4"}
    first = await vace.submit(**same, mask="white.mkv", control_scale=0.7, reference_images=[as_text(png())])
    masked = await made(vace, engine)
    request = seen(engine)
    assert request.video is not None and request.mask is not None
    assert request.video.shape == (5, 64, 96, 3) and request.mask.shape == (5, 64, 96)
    assert (request.mask == 255).all() and request.control_scale == 0.7 and len(request.references) == 1
    await vace.submit(**same)
    assert (await made(vace, engine) != masked).any()
    assert seen(engine).mask is None
    again = {"task_id": first["task_id"], "new_task_id": "again", "infer_steps": 2}
    response = await vace.client.post("/v1/tasks/video/again", json=again)
    assert response.status_code == 200, response.text
    await made(vace, engine)
    repeated = seen(engine)
    assert repeated.mask is not None and repeated.control_scale == 0.7
    assert repeated.video is not None and np.array_equal(repeated.video, request.video)


async def test_the_models_and_limits_say_what_is_taken(vace: HttpService):
    found = (await vace.client.get("/v1/service/metadata")).json()
    assert [model["limits"]["takes_video"] for model in found["models"]] == [False, True]
    assert found["limits"]["max_video_bytes"] == vace.settings.limits.max_video_bytes
    assert VACE in {model["variant"] for model in found["models"]}
