"""Every format of a video's file: its frames are those written, and stills and settings go with it."""

import io
import json
import re
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from models.errors import TuningError
from models.pixel_format import PixelFormat
from serve_app.files.local_artifacts import LocalArtifacts
from serve_app.files.output_paths import OutputPaths
from serve_app.media import encoders
from serve_app.media.encoders import written_formats
from serve_app.media.video_encoding import VideoEncoding
from serve_app.media.video_stills import StillKind, VideoStills, still_key
from serve_app.media.video_writer import VideoWriteError, VideoWriter
from serve_app.replica.run import Outcome, Run
from serve_app.tasks.video_output import Codec, VideoFormat, VideoOutput
from testbed.paced_engine import PacedEngine
from tests.unit.run_stage import SPEC, TASK, Coordinator, execute
from tests.unit.test_video_writer import HEIGHT, WIDTH, decode, describe, moving

COMMENT = json.dumps({"wan_serve": {"prompt": "a cat; [1] = 猫"}}, ensure_ascii=False)
VIDEOS = [(form, codec) for form, codecs in written_formats().items() for codec in codecs]
PICTURES = [form for form, codecs in written_formats().items() if not codecs]


def write(path: Path, output: VideoOutput, comment: str | None = COMMENT, count: int = 9) -> Path:
    encoding = VideoEncoding().of(output)
    with VideoWriter(path, width=WIDTH, height=HEIGHT, fps=16, encoding=encoding, comment=comment) as writer:
        writer.write(moving(count))
    return path


def test_ffmpeg_tells_what_it_writes() -> None:
    assert Codec.H264 in written_formats()[VideoFormat.MP4]
    assert VIDEOS and PICTURES


@pytest.mark.parametrize(("form", "codec"), VIDEOS)
def test_a_video_in_any_codec_has_its_frames_and_its_comment(
    tmp_path: Path, form: VideoFormat, codec: Codec
) -> None:
    path = write(tmp_path / f"a{form.suffix}", VideoOutput(form, codec, 10))
    about = describe(path)
    name = {Codec.H265: "hevc"}.get(codec, str(codec))
    assert re.search(rf"Video: {name} .*yuv420p\(tv, bt709, progressive\), 96x64.* 16 fps", about), about
    assert re.search(rf"(?i)comment +: {re.escape(COMMENT)}", about), about
    assert np.abs(decode(path).astype(int) - moving()).mean() < 6


@pytest.mark.parametrize("form", [form for form in PICTURES if form is not VideoFormat.PNG_ZIP])
def test_a_moving_picture_has_its_frames_and_its_time(tmp_path: Path, form: VideoFormat) -> None:
    with Image.open(write(tmp_path / f"a{form.suffix}", VideoOutput(form))) as picture:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)]
        assert picture.info["loop"] == 0
    assert np.abs(np.stack(frames).astype(int) - moving()).mean() < 12
    assert "16 fps" in describe(tmp_path / f"a{form.suffix}") or form is VideoFormat.GIF


def test_a_zip_has_each_frame_as_it_was_and_the_settings(tmp_path: Path) -> None:
    output = VideoOutput(VideoFormat.PNG_ZIP)
    first, second = (write(tmp_path / name, output).read_bytes() for name in ("a.zip", "b.zip"))
    assert first == second
    with zipfile.ZipFile(io.BytesIO(first)) as packed:
        assert packed.testzip() is None
        assert packed.read("settings.json").decode() == COMMENT
        names = [name for name in packed.namelist() if name != "settings.json"]
        frames = [np.asarray(Image.open(io.BytesIO(packed.read(name)))) for name in names]
    assert names == [f"{number:05d}.png" for number in range(1, 10)]
    assert np.array_equal(np.stack(frames), moving())
    plain = write(tmp_path / "c.zip", output, None)
    assert "settings.json" not in zipfile.ZipFile(plain).namelist()


def test_a_zip_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, HEIGHT, WIDTH, 3), np.uint8)  # more than a pipe
    encoding = VideoEncoding().of(VideoOutput(VideoFormat.PNG_ZIP))
    writer = VideoWriter(tmp_path / "none" / "a.zip", width=WIDTH, height=HEIGHT, fps=16, encoding=encoding)
    with pytest.raises(VideoWriteError), writer:
        writer.write(noise)
    assert list(tmp_path.iterdir()) == []


def test_less_quality_is_a_smaller_file(tmp_path: Path) -> None:
    for codec in (Codec.H264, Codec.VP9):
        sizes = [
            len(write(tmp_path / "a.mp4", VideoOutput(VideoFormat.MP4, codec, crf)).read_bytes())
            for crf in (5, 45)
        ]
        assert sizes[0] > 1.5 * sizes[1], codec


@pytest.mark.parametrize("form", [form for form in written_formats() if form is not VideoFormat.MP4])
async def test_stills_are_made_of_every_format(tmp_path: Path, form: VideoFormat) -> None:
    artifacts = LocalArtifacts(OutputPaths(tmp_path / "out"), tmp_path / "data")
    write(artifacts.attempt_path("a", 1, form), VideoOutput(form), count=20)
    stills = VideoStills(artifacts)

    async def still(kind: StillKind) -> io.BytesIO:
        made = await stills.of(artifacts.key("a", 1, form), kind, 20)
        return io.BytesIO(b"".join(made.chunks(0, made.size)))

    with Image.open(await still(StillKind.THUMBNAIL)) as first:
        assert (first.format, first.size) == ("WEBP", (96, 64))
        assert np.abs(np.asarray(first.convert("RGB")).astype(int) - moving(1)[0]).mean() < 16
    with Image.open(await still(StillKind.SPRITESHEET)) as sheet:
        assert (sheet.format, sheet.size) == ("JPEG", (960, 480))  # every second of 20 frames, in rows of 4

    with Image.open(await still(StillKind.LAST_FRAME)) as last:
        assert (last.format, last.size) == ("PNG", (96, 64))
        assert np.abs(np.asarray(last.convert("RGB")).astype(int) - moving(20)[-1]).mean() < 12


@pytest.mark.parametrize("comment", [COMMENT, None])
async def test_stills_are_made_of_a_webp_of_one_frame(tmp_path: Path, comment: str | None) -> None:
    artifacts = LocalArtifacts(OutputPaths(tmp_path / "out"), tmp_path / "data")
    write(artifacts.attempt_path("a", 1, VideoFormat.WEBP), VideoOutput(VideoFormat.WEBP), comment, count=1)
    for kind in StillKind:
        made = await VideoStills(artifacts).of(artifacts.key("a", 1, VideoFormat.WEBP), kind, 1)
        with Image.open(io.BytesIO(b"".join(made.chunks(0, made.size)))) as still:
            assert still.size[0] >= 96, kind


def test_a_file_that_this_ffmpeg_cannot_write_is_an_error(tmp_path: Path, poor_ffmpeg: None) -> None:
    with pytest.raises(TuningError, match="no encoder of av1"):
        write(tmp_path / "a.mp4", VideoOutput(VideoFormat.MP4, Codec.AV1))
    assert list(tmp_path.iterdir()) == []


async def test_a_run_writes_the_form_that_its_task_asks_for(tmp_path: Path) -> None:
    artifacts = LocalArtifacts(OutputPaths(tmp_path / "out"), tmp_path / "data")
    output = VideoOutput(VideoFormat.PNG_ZIP, return_last_frame=True)
    task = replace(TASK, spec=replace(SPEC, output=output))
    coordinator = Coordinator()
    run = Run(
        task,
        PacedEngine(step_s=0),
        artifacts,
        coordinator,
        heartbeat_s=1,
        step_timeout_s=30,
        encoding=VideoEncoding(PixelFormat.YUV420P),
        variant="demo",
    )
    with ThreadPoolExecutor(1) as thread:
        assert await execute(run, thread) is Outcome.PUBLISHED
    (result,) = coordinator.published
    path = artifacts.path_of(result.artifact)
    with zipfile.ZipFile(path) as packed:
        frames = [name for name in packed.namelist() if name.endswith(".png")]
        assert len(frames) == SPEC.num_frames
        last = Image.open(io.BytesIO(packed.read(frames[-1])))
        with Image.open(artifacts.path_of(still_key(result.artifact, StillKind.LAST_FRAME))) as kept:
            assert np.array_equal(np.asarray(kept), np.asarray(last))
        assert json.loads(packed.read("settings.json"))["wan_serve"]["format"] == "png-zip"


def test_encoders_are_listed_once(poor_ffmpeg: None) -> None:
    assert written_formats() == {VideoFormat.MP4: (Codec.H264, Codec.H265), VideoFormat.GIF: ()}
    assert encoders.listed_encoders() is encoders.listed_encoders()
