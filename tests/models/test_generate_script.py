"""``scripts/generate`` makes a video from the command line, or prints one sentence about the fault."""

import json
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from models.variants import VARIANTS
from offline.cli import main

from .conftest import picture

ROOT = Path(__file__).parent.parent.parent
SMALL = ["--prompt", "a red cat", "--size", "64x32", "--frames", "5", "--steps", "2"]


def generate(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "offline.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={"PYTHONPATH": str(ROOT)})


def frames_of(file: Path) -> np.ndarray:
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-i",
        file,
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]
    raw = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, 32, 64, 3)


@pytest.mark.slow
def test_a_group_writes_a_video(demo_weights: Path, tmp_path: Path) -> None:
    image, out = tmp_path / "first.png", tmp_path / "out.mp4"
    Image.fromarray(picture(64, 32)).save(image)
    done = generate("--weights", demo_weights, *SMALL, "--image", image, "--devices", "2", "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out)
    frames = frames_of(out)
    assert len(frames) == 5
    assert frames.std() > 1
    assert "is demo" in done.stderr, "the variant is read from the folder"
    assert done.stderr.count("The prompt has words that demo does not know: cat.\n") == 1


@pytest.mark.slow
def test_the_shape_of_the_first_frame_and_all_notes_come_as_over_http(
    demo_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, out = tmp_path / "first.png", tmp_path / "out.mp4"
    Image.fromarray(picture(48, 72)).save(image)
    width = VARIANTS["demo"].dim
    lora = {
        "diffusion_model.blocks.0.self_attn.q.diff_b": torch.zeros(width),
        "diffusion_model.blocks.0.cross_attn.k_img.diff_b": torch.zeros(width),
    }
    save_file(lora, tmp_path / "i2v.safetensors")
    video = ["--prompt", "a red cat", "--frames", "5", "--steps", "1", "--fragments", "2"]
    files = ["--image", str(image), "--lora-folder", str(tmp_path), "--lora", "i2v", "--out", str(out)]
    status = main(["--model", str(demo_weights), *video, *files])
    said = capsys.readouterr().err
    assert status == 0, said
    assert next(imageio_ffmpeg.read_frames(str(out)))["size"] == (96, 160)
    assert "first.png: image 48x72 was centre-cropped to 96x160" in said
    assert said.count("The LoRA 'i2v' is applied without 1 of its 2 tensors") == 1
    assert said.count("The prompt has words that demo does not know: cat.") == 1


def test_fragments_go_into_one_video(
    demo_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.mp4"
    model = ["--model", str(demo_weights), "--variant", "demo"]
    status = main([*model, *SMALL, "--fragments", "2", "--out", str(out), "--json"])
    said = capsys.readouterr()
    assert status == 0, said.err
    assert len(frames_of(out)) == 9
    document = json.loads(said.out)
    assert document["file"] == str(out)
    assert (document["wan_serve"]["prompt"], document["wan_serve"]["infer_steps"]) == ("a red cat", 2)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--devices", "8", "--ulysses", "8"], "4 heads; possible are 1, 2, 4"),
        (["--devices", "4", "--cfg", "2", "--guidance-scale", "1"], "cfg must be 1"),
        (["--image", "no-such-file.png"], "no-such-file.png cannot be read"),
        (["--steps", "0"], "steps must be 1"),
        (["--weights", "no-such-folder"], "There is no weights folder"),
        (["--image", "no-such.png", "--variant", "wan2.1-t2v-1.3b"], "no-such.png cannot be read"),
        (["--variant", "wan2.1-t2v-1.3b"], "is not wan2.1-t2v-1.3b"),
        (["--guidance-scale-2", "3"], "takes no guidance_scale_2"),
        (["--lora", "anime:0.5"], "The LoRA 'anime' does not exist"),
        (["--option", "speed=9"], "speed is not an engine option; there are attention"),
        (["--fragments", "0"], "num_fragments must be at least 1"),
    ],
)
def test_a_fault_of_the_command_line_is_one_sentence(
    demo_weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    out = tmp_path / "out.mp4"
    status = main(["--weights", str(demo_weights), *SMALL, "--out", str(out), *arguments])
    said = capsys.readouterr().err
    assert status == 1
    assert sentence in said
    assert "Traceback" not in said
    assert not out.exists()


@pytest.mark.slow
def test_the_command_ends_with_that_sentence_and_no_traceback(tmp_path: Path) -> None:
    done = generate("--weights", "no-such-folder", *SMALL, "--out", tmp_path / "out.mp4")
    assert done.returncode == 1
    assert "There is no weights folder" in done.stderr
    assert "Traceback" not in done.stderr
