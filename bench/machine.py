"""Says what a benchmark ran on, for the record."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("ray", "torch", "diffusers", "transformers")


def describe() -> str:
    """One line: date, processor, cores, versions."""
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    when = datetime.now(UTC).date().isoformat()
    return f"{when}: {_processor()}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
