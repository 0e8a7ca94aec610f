"""Frames as YUV: to a level what ffmpeg makes of them as RGB, in memory and in the file."""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.generate import generate
from models.pipeline.pixels import converted, levels
from models.pixel_format import PixelFormat, video_format
from serve_app.media.video_encoding import VideoEncoding
from serve_app.media.video_writer import VideoWriter

from .conftest import REQUEST, Model

RGB, YUV = PixelFormat.RGB24, PixelFormat.YUV420P
WIDTH, HEIGHT = 48, 32
SHAPE = (5, 3, HEIGHT, WIDTH)


def noise() -> torch.Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def bars() -> torch.Tensor:
    """The corners of the RGB cube in stripes of three pixels along both sides, with the sharpest edges."""
    number = torch.arange(WIDTH)[None, :] // 3 + torch.arange(HEIGHT)[:, None] // 3
    cube = torch.stack([(number >> bit) % 2 for bit in range(3)]).float() * 2 - 1
    return cube.expand(SHAPE).clone()


def ramp() -> torch.Tensor:
    return torch.linspace(-1, 1, WIDTH).expand(SHAPE).clone() * torch.tensor([1.0, 0.5, -1.0])[:, None, None]


def ffmpeg(data: bytes, *arguments: str) -> NDArray[np.uint8]:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *arguments, "-f", "rawvideo", "pipe:1"]
    return np.frombuffer(
        subprocess.run(command, input=data, capture_output=True, check=True).stdout, np.uint8
    )


def converted_by_ffmpeg(chunk: torch.Tensor) -> NDArray[np.uint8]:
    """Convert with the filters that a file of RGB frames is written with."""
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-i", "pipe:0")
    planes = ffmpeg(levels(chunk).numpy().tobytes(), *raw, "-vf", VideoEncoding().filters)
    return planes.reshape(-1, *YUV.frame_shape(WIDTH, HEIGHT))


@pytest.mark.parametrize("picture", [noise, bars, ramp])
def test_yuv_is_what_ffmpeg_makes_of_rgb(picture) -> None:
    chunk = picture()
    found = converted(chunk, YUV)
    assert (found.dtype, found.shape) == (torch.uint8, (5, HEIGHT * 3 // 2, WIDTH))
    apart = np.abs(found.numpy().astype(int) - converted_by_ffmpeg(chunk))
    assert apart.max() <= 1
    assert np.mean(apart) < 0.3


def test_yuv_of_16_bits_is_that_of_their_values() -> None:
    chunk = ramp().bfloat16()
    assert torch.equal(converted(chunk, YUV), converted(chunk.float(), YUV))


def planes_of(path: Path) -> NDArray[np.int_]:
    planes = ffmpeg(b"", "-i", str(path)).reshape(-1, *YUV.frame_shape(REQUEST.width, REQUEST.height))
    return planes.astype(int)


def described(path: Path) -> str:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    return next(line for line in said.splitlines() if "Video:" in line).split("kb/s")[0].rsplit(",", 1)[0]


def test_a_file_of_yuv_frames_has_the_colours_and_tags_of_one_of_rgb_frames(
    tmp_path: Path, expanding_model: Model
) -> None:
    files = {}
    for form in (RGB, YUV):
        files[form] = tmp_path / f"{form}.mp4"
        encoding = VideoEncoding(form, quality=0)  # lossless
        size = {"width": REQUEST.width, "height": REQUEST.height}
        with VideoWriter(files[form], **size, fps=16, encoding=encoding, comment=None) as writer:
            for frames in generate(expanding_model.engine, REQUEST, pixel_format=form):
                assert frames.flags.c_contiguous
                assert frames.shape[1:] == form.frame_shape(**size)
                writer.write(frames)
        assert writer.frames_written == REQUEST.num_frames
    rgb, yuv = (planes_of(path) for path in files.values())
    assert len(yuv) == REQUEST.num_frames and yuv.std() > 5
    assert np.abs(rgb - yuv).max() <= 1
    assert described(files[RGB]) == described(files[YUV])
    assert "yuv420p(tv, bt709, progressive), 80x48" in described(files[YUV])


def test_a_gpu_hands_out_yuv_and_a_cpu_rgb() -> None:
    assert [video_format(device) for device in ("cuda", "cuda:3", "cpu")] == [YUV, YUV, RGB]
