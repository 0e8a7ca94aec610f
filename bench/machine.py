"""A description of the machine that a benchmark ran on, for the record."""

import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("ray", "torch", "diffusers", "transformers")


def describe(device: str | None = None) -> str:
    """Return one line: date, ``device`` if one is given, processor, cores, versions of what is installed."""
    versions = ", ".join([f"Python {platform.python_version()}", *_versions()])
    when = datetime.now(UTC).date().isoformat()
    hardware = "" if device is None else f"{device}, "
    return f"{when}: {hardware}{_processor()}, {os.cpu_count()} cores; {versions}"


def _versions() -> Iterator[str]:
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            yield f"{package} {version(package)}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
