"""torch, the GPUs, their driver, and the attention kernels that run on them."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.doctor.finding import Finding

ROOT = Path(__file__).parents[2]
_WITHIN_S = 180.0
_HOPPER = 9
_EXCEPTION = re.compile(r"^[\w.]*(?:Error|Exception): .+$", re.MULTILINE)
"""An exception's first line: those of CUDA have others below it, which say nothing of the fault."""
_DRIVER = "Until the driver answers, no GPU is used: load it again, install it, or restart the machine."


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU as torch sees it."""

    name: str
    memory_bytes: int
    capability: tuple[int, int]


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """What torch sees of the machine: ``models.speed.device_report``."""

    torch: str
    cuda: str | None
    devices: tuple[Device, ...]
    attention: Mapping[str, str | None]
    """Why each kernel cannot run here, None for those that can."""

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "DeviceReport":
        """Read the report."""
        devices = tuple(
            Device(each["name"], each["memory_bytes"], (each["capability"][0], each["capability"][1]))
            for each in document["devices"]
        )
        return cls(document["torch"], document["cuda"], devices, document["attention"])


def seen_by_torch() -> DeviceReport | Finding:
    """Ask torch in a process of its own; return a problem if that fails or hangs."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "models.speed.device_report"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *_python_path()])},
            capture_output=True,
            text=True,
            timeout=_WITHIN_S,
            check=True,
        )
        reports = [line for line in done.stdout.splitlines() if line.startswith("{")]
        return DeviceReport.of(json.loads(reports[-1]))
    except subprocess.TimeoutExpired:
        advice = "See whether nvidia-smi answers; a GPU that hangs needs a reset, or the machine a restart."
        return Finding("torch", "problem", f"did not answer within {_WITHIN_S:.0f} s", advice)
    except subprocess.CalledProcessError as error:
        said = _EXCEPTION.findall(error.stderr) or error.stderr.strip().splitlines()
        seen = said[-1] if said else f"ended with {error.returncode}"
        return Finding("torch", "problem", seen, "Install torch for this machine: pip install torch.")
    except (IndexError, KeyError, ValueError):
        return Finding("torch", "problem", "told nothing that can be read", "Run wan-serve doctor again.")


def of_devices(report: DeviceReport, listed: Sequence[str]) -> Iterator[Finding]:
    """Yield what is found about torch and the GPUs; ``listed``: those that nvidia-smi lists."""
    yield Finding("torch", "ok", f"{report.torch}, {_built_for(report)}")
    if report.devices:
        yield Finding("GPUs", "ok", ", ".join(map(_words, report.devices)))
        if listed:
            yield Finding("driver", "ok", listed[0].rpartition(", ")[2])
        yield _attention(report)
    elif listed:
        advice = "Install a torch that is built for this driver: see pytorch.org, or update the driver."
        yield Finding("GPUs", "problem", f"nvidia-smi lists {len(listed)}, and torch sees none", advice)
    else:
        advice = "The demo model runs on a CPU; all others need a GPU."
        yield Finding("GPUs", "warning", "there is none", advice)


def listed_by_driver() -> Sequence[str] | Finding:
    """Return a line for each GPU that nvidia-smi lists, its name and the driver's version; none without an
    nvidia-smi; what it says where it fails.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    command = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_WITHIN_S, errors="replace")
    except subprocess.TimeoutExpired:
        return Finding("driver", "warning", f"nvidia-smi did not answer within {_WITHIN_S:.0f} s", _DRIVER)
    except OSError as error:
        return Finding("driver", "warning", f"nvidia-smi does not start: {error.strerror}", _DRIVER)
    lines = done.stdout.strip().splitlines()
    listed = [line for line in lines if ", " in line]
    if done.returncode == 0 and listed:
        return listed
    said = " ".join(lines) or f"it ended with {done.returncode}"
    return Finding("driver", "warning", f"nvidia-smi lists no GPU: {said}", _DRIVER)


def _attention(report: DeviceReport) -> Finding:
    able = [name for name, reason in report.attention.items() if reason is None]
    seen = ", ".join(able)
    reason = report.attention.get("flash3")
    if reason is not None and any(device.capability[0] == _HOPPER for device in report.devices):
        return Finding("attention", "warning", f"{seen}; flash3 {reason}", 'pip install "wan-serve[fa3]"')
    return Finding("attention", "ok", seen)


def _built_for(report: DeviceReport) -> str:
    return "built for CPUs" if report.cuda is None else f"built for CUDA {report.cuda}"


def _words(device: Device) -> str:
    return f"{device.name} ({device.memory_bytes / 1e9:.0f} GB)"


def _python_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
