"""AIPerf, NVIDIA's load generator, in an environment of its own: it needs other versions of packages."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uv_command import command, settings

from tests.needed import needed

ROOT = Path(__file__).parents[1]
PINS = Path(__file__).with_suffix(".txt")
"""AIPerf, and what it imports to measure videos: half of all that it asks for."""
_FOLDER = ROOT / ".aiperf"
_STAMP = _FOLDER / "stamp"
_WITHIN_S = 600


def program() -> Path:
    """Return AIPerf, which the first call installs. Skips the test where it cannot be had, as offline."""
    if not _STAMP.is_file() or _STAMP.read_text() != PINS.read_text():
        shutil.rmtree(_FOLDER, ignore_errors=True)
        try:
            _install()
            _STAMP.write_text(PINS.read_text())
        except (OSError, subprocess.SubprocessError) as error:
            print(error)
    path = _FOLDER / "bin" / "aiperf"
    return needed(path if _STAMP.is_file() else None, "AIPerf", "uv, from the package index")


def profile(url: str, folder: Path, *options: str, prompt: str, extra: Mapping[str, object]) -> Any:
    """Have videos made with that prompt and further fields, and downloaded; return what AIPerf exports."""
    (folder / "prompts.jsonl").write_text(json.dumps({"text": prompt}))
    fields = [word for name, value in extra.items() for word in ("--extra-inputs", f"{name}:{value}")]
    _output(
        [
            *(str(program()), "profile", "--endpoint-type", "video_generation", "--url", url),
            *("--input-file", "prompts.jsonl", "--custom-dataset-type", "single_turn"),
            *("--tokenizer", str(ROOT / "models/demo/weights/tokenizer"), "--download-video-content"),
            *("--workers-max", "1", "--record-processor-service-count", "1", "--ui-type", "none"),
            *("--no-server-metrics", "--no-gpu-telemetry", "--output-artifact-dir", "found"),
            *(*options, *fields),
        ],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
    )
    return json.loads((folder / "found" / "profile_export_aiperf.json").read_text())


def _install() -> None:
    uv = shutil.which("uv", path=Path(sys.executable).parent) or shutil.which("uv")
    if uv is None:
        raise FileNotFoundError("there is no uv")
    listing = _output([sys.executable, "-m", "pip", "config", "list"])
    _output([uv, "venv", "--python", sys.executable, str(_FOLDER)])
    _output([*command(uv, settings(listing)), "--python", str(_FOLDER), "--no-deps", "-r", str(PINS)])


def _output(words: Sequence[str], **how: Any) -> str:
    """Return what a command prints. Raises ``SubprocessError``; what it said is in the test's output."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        words, capture_output=True, text=True, timeout=_WITHIN_S, check=False, **how
    )
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n")
    done.check_returncode()
    return done.stdout
