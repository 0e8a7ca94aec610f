"""Videos: the decoded frames are those written, and a failure leaves no file."""

import fcntl
import os
import re
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from models.errors import TuningError
from models.pixel_format import PixelFormat
from serve_app.files import durable
from serve_app.media.child_killed import ChildKilled
from serve_app.media.video_encoding import VideoEncoding, require
from serve_app.media.video_writer import DiskFull, VideoWriteError, VideoWriter

WIDTH, HEIGHT = 96, 64


def moving(count: int = 9, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """Return frames of smooth saturated colours that drift: a wrong colour matrix shows on them."""
    t, y, x = np.meshgrid(np.arange(count), np.arange(height), np.arange(width), indexing="ij")
    bands = [
        127.5 + 127.5 * np.sin(2 * np.pi * (axis + 3 * t) / 96 + turn)
        for axis, turn in ((x, 0), (y, 2), (x, 4))
    ]
    return np.stack(bands, axis=-1).astype(np.uint8)


def describe(path: Path) -> str:
    """Return ffmpeg's description of a file."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", str(path)]
    return subprocess.run(command, capture_output=True, text=True).stderr


def decode(path: Path, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """Return all frames of a file, uint8 ``[n, height, width, 3]``."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path)]
    command += ["-fps_mode", "passthrough", "-vf", "scale=in_color_matrix=bt709:in_range=tv"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def boxes(path: Path) -> list[str]:
    """Return the names of an MP4's outermost boxes in their order."""
    data, at, names = path.read_bytes(), 0, []
    while at < len(data):
        names.append(data[at + 4 : at + 8].decode())
        at += int.from_bytes(data[at : at + 4], "big")
    return names


Children = Callable[[], set[int]]


def processes() -> set[int]:
    """Return all children of this process that are not yet reaped."""
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


@pytest.fixture
def children() -> Children:
    """Return the children that the test has started; other tests may have left some of theirs."""
    before = processes()
    return lambda: processes() - before


def test_the_file_holds_the_frames_that_were_written(tmp_path: Path) -> None:
    frames, path = moving(), tmp_path / "a.mp4"
    with VideoWriter(path, width=WIDTH, height=HEIGHT, fps=16) as writer:
        writer.write(frames[:1])
        writer.write(frames[1:1])
        writer.write(frames[1:])
    assert writer.frames_written == len(frames)
    shown = decode(path)
    assert shown.shape == frames.shape
    error = np.mean((shown.astype(float) - frames) ** 2)
    assert 10 * np.log10(255**2 / error) > 30  # decibels


@pytest.mark.parametrize(
    "colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (90, 160, 40)]
)
def test_a_plain_colour_stays_what_it_is(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    frames = np.empty((5, HEIGHT, WIDTH, 3), np.uint8)
    frames[:] = colour
    with VideoWriter(tmp_path / "a.mp4", width=WIDTH, height=HEIGHT, fps=16) as writer:
        writer.write(frames)
    assert np.abs(decode(tmp_path / "a.mp4").astype(int) - colour).max() <= 4


@pytest.mark.parametrize(
    ("fps", "shown"), [(16, "16 fps"), (24, "24 fps"), (23.976, "23.98 fps"), (12.5, "12.50 fps")]
)
def test_the_file_is_h264_with_the_size_and_rate_asked_for(tmp_path: Path, fps: float, shown: str) -> None:
    with VideoWriter(tmp_path / "a.mp4", width=WIDTH, height=HEIGHT, fps=fps) as writer:
        writer.write(moving(17))
    about = describe(tmp_path / "a.mp4")
    assert re.search(r"Video: h264 .* yuv420p\(tv, bt709, progressive\), 96x64", about), about
    assert shown.replace(".50", ".5") in about.replace(".50", ".5"), about
    assert "Audio" not in about


def test_the_duration_is_frames_by_rate(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", width=WIDTH, height=HEIGHT, fps=16) as writer:
        writer.write(moving(32))
    assert "Duration: 00:00:02.00" in describe(tmp_path / "a.mp4")


def test_the_index_stands_before_the_pictures(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", width=WIDTH, height=HEIGHT, fps=16) as writer:
        writer.write(moving())
    names = boxes(tmp_path / "a.mp4")
    assert names.index("moov") < names.index("mdat")


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        with VideoWriter(tmp_path / name, width=WIDTH, height=HEIGHT, fps=16) as writer:
            writer.write(moving(25))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_frames_that_are_not_contiguous_are_written_right(tmp_path: Path) -> None:
    frames = moving(5)
    with VideoWriter(tmp_path / "a.mp4", width=WIDTH, height=HEIGHT, fps=16) as writer:
        writer.write(frames[:, :, ::-1])
    assert np.abs(decode(tmp_path / "a.mp4").astype(int) - frames[:, :, ::-1]).mean() < 6


@pytest.mark.parametrize(
    "name", ["with space.mp4", "a:b.mp4", "%03d.mp4", "-y.mp4", "视频.mp4", "n" * 251 + ".mp4"]
)
def test_any_name_is_only_a_name(tmp_path: Path, name: str) -> None:
    with VideoWriter(tmp_path / name, width=WIDTH, height=HEIGHT, fps=16) as writer:
        writer.write(moving(5))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_nothing_is_at_the_target_before_the_end(tmp_path: Path, children: Children) -> None:
    with VideoWriter(tmp_path / "a.mp4", width=WIDTH, height=HEIGHT, fps=16) as writer:
        writer.write(moving())
        assert not (tmp_path / "a.mp4").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert children() == set()


def test_an_exception_leaves_nothing_and_the_older_file(tmp_path: Path, children: Children) -> None:
    (tmp_path / "a.mp4").write_bytes(b"older")
    with (
        pytest.raises(KeyError),
        VideoWriter(tmp_path / "a.mp4", width=WIDTH, height=HEIGHT, fps=16) as writer,
    ):
        writer.write(moving())
        raise KeyError("stopped")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"older"
    assert children() == set()


def test_a_video_without_frames_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(VideoWriteError, match="no frames"),
        VideoWriter(tmp_path / "a.mp4", width=WIDTH, height=HEIGHT, fps=16),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_an_error_in_ffmpegs_words(tmp_path: Path, children: Children) -> None:
    path = tmp_path / "none" / "a.mp4"
    with (
        pytest.raises(VideoWriteError, match="No such file") as caught,
        VideoWriter(path, width=1280, height=720, fps=16) as writer,
    ):
        for _ in range(20):
            writer.write(np.zeros((5, 720, 1280, 3), np.uint8))
    assert str(tmp_path) not in str(caught.value)
    assert children() == set()


def test_a_refused_setting_is_an_error_in_ffmpegs_words(tmp_path: Path) -> None:
    with (
        pytest.raises(VideoWriteError, match="no-such-preset"),
        VideoWriter(
            tmp_path / "a.mp4",
            width=WIDTH,
            height=HEIGHT,
            fps=16,
            encoding=VideoEncoding(preset="no-such-preset"),
        ) as writer,
    ):
        writer.write(moving())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    monkeypatch.setattr(durable, "temp_beside", lambda path: full)
    with (
        pytest.raises(DiskFull),
        VideoWriter(tmp_path / "a.mp4", width=WIDTH, height=HEIGHT, fps=16) as writer,
    ):
        writer.write(moving())
    assert list(tmp_path.iterdir()) == []


def test_a_killed_ffmpeg_is_an_error_of_the_machine(tmp_path: Path, children: Children) -> None:
    with (
        pytest.raises(ChildKilled, match="SIGKILL"),
        VideoWriter(tmp_path / "a.mp4", width=WIDTH, height=HEIGHT, fps=16) as writer,
    ):
        writer.write(moving())
        (child,) = children()
        os.kill(child, 9)
        while True:  # until the broken pipe shows
            writer.write(moving())
    assert list(tmp_path.iterdir()) == []
    assert children() == set()


def test_a_file_that_may_grow_no_more_is_a_full_disk_and_leaves_nothing(
    tmp_path: Path, children: Children
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, HEIGHT, WIDTH, 3), np.uint8)
    with (
        pytest.raises(DiskFull),
        VideoWriter(tmp_path / "a.mp4", width=WIDTH, height=HEIGHT, fps=16) as writer,
    ):
        (ffmpeg,) = children()
        resource.prlimit(ffmpeg, resource.RLIMIT_FSIZE, (20_000, 20_000))  # bytes; more do not fit
        for _ in range(10):
            writer.write(noise)
    assert list(tmp_path.iterdir()) == []
    assert children() == set()


def test_yuv_frames_are_written_as_they_are(tmp_path: Path) -> None:
    form = PixelFormat.YUV420P
    frames = np.random.default_rng(0).integers(40, 200, (5, *form.frame_shape(WIDTH, HEIGHT)), np.uint8)
    encoding = VideoEncoding(form, quality=0)  # lossless
    with VideoWriter(tmp_path / "a.mp4", width=WIDTH, height=HEIGHT, fps=16, encoding=encoding) as writer:
        writer.write(frames)
        with pytest.raises(ValueError, match=r"\[n, 96, 96\]"):
            writer.write(moving())
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(tmp_path / "a.mp4")]
    raw = subprocess.run([*command, "-f", "rawvideo", "pipe:1"], capture_output=True, check=True).stdout
    assert np.array_equal(np.frombuffer(raw, np.uint8).reshape(frames.shape), frames)
    assert "yuv420p(tv, bt709, progressive), 96x64" in describe(tmp_path / "a.mp4")


@pytest.mark.skipif(not hasattr(fcntl, "F_GETPIPE_SZ"), reason="only Linux tells a pipe's size")
def test_ffmpeg_reads_from_a_wide_pipe(tmp_path: Path, children: Children) -> None:
    most = int(Path("/proc/sys/fs/pipe-max-size").read_text())
    with VideoWriter(tmp_path / "a.mp4", width=WIDTH, height=HEIGHT, fps=16) as writer:
        (ffmpeg,) = children()
        pipe = os.open(f"/proc/{ffmpeg}/fd/0", os.O_RDONLY | os.O_NONBLOCK)
        assert fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) == min(2**20, most)
        os.close(pipe)
        writer.write(moving())


def test_ffmpeg_sees_the_devices_that_it_is_to_encode_on(tmp_path: Path, children: Children) -> None:
    encoding = VideoEncoding(devices="3")
    path = tmp_path / "a.mp4"
    with VideoWriter(path, width=WIDTH, height=HEIGHT, fps=16, encoding=encoding) as writer:
        (ffmpeg,) = children()
        seen = psutil.Process(ffmpeg).environ()
        writer.write(moving())
    assert seen.items() >= {**os.environ, "CUDA_VISIBLE_DEVICES": "3"}.items()


def test_an_encoder_that_does_not_work_is_refused_in_ffmpegs_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # where there is a GPU, it is not for this test
    require("libx264")
    with pytest.raises(TuningError, match=r"^h264_nvenc cannot be used: [^@]+\.$"):
        require("h264_nvenc")


@pytest.mark.parametrize("size", [(95, 64), (96, 63), (0, 64), (96, -2)])
def test_odd_sizes_are_refused_at_once(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="even"):
        VideoWriter(tmp_path / "a.mp4", width=size[0], height=size[1], fps=16)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_rates_that_are_none_are_refused(tmp_path: Path, fps: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        VideoWriter(tmp_path / "a.mp4", width=WIDTH, height=HEIGHT, fps=fps)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((1, WIDTH, HEIGHT, 3), np.uint8),
        np.zeros((HEIGHT, WIDTH, 3), np.uint8),
        np.zeros((1, HEIGHT, WIDTH, 4), np.uint8),
        np.zeros((1, HEIGHT, WIDTH, 3), np.float32),
    ],
)
def test_frames_of_another_shape_are_refused(tmp_path: Path, frames: NDArray[np.uint8]) -> None:
    with (
        pytest.raises(ValueError, match="frames must be"),
        VideoWriter(tmp_path / "a.mp4", width=WIDTH, height=HEIGHT, fps=16) as writer,
    ):
        writer.write(frames)
    assert list(tmp_path.iterdir()) == []
