"""The machine: Python, processors, memory, shared memory, open files, disk."""

import os
import platform
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

from serve_app.doctor.finding import Finding

LEAST_MEMORY = 4 * 2**30
LEAST_SHARED = 2**30
"""What Ray's object store and a group's ranks are content with; a container has 64 MB by itself."""
LEAST_FILES = 16_384
"""HAProxy takes three for each of 4,096 connections, and Ray some."""
_SHARED = Path("/dev/shm")


def of_machine() -> Iterator[Finding]:
    """Yield what is found about the machine."""
    yield Finding("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield memory()
    yield shared_memory(_SHARED)
    yield open_files()


def memory() -> Finding:
    """Return how much memory and how many processors there are."""
    there = psutil.virtual_memory()
    seen = f"{_gb(there.available)} of {_gb(there.total)} free, {len(os.sched_getaffinity(0))} processors"
    if there.available < LEAST_MEMORY:
        return Finding("memory", "warning", seen, "Ray and a model need 4 GB: end what is not needed.")
    return Finding("memory", "ok", seen)


def shared_memory(folder: Path) -> Finding:
    """Return how much shared memory there is at ``folder``."""
    if not folder.is_dir():
        return Finding("shared memory", "warning", f"there is no {folder}", "Mount a tmpfs there.")
    there = shutil.disk_usage(folder)
    seen = f"{_gb(there.free)} of {_gb(there.total)} free"
    if there.free < LEAST_SHARED:
        advice = "Ray's object store goes to disk, and groups of GPUs may fail: docker run --shm-size=8g."
        return Finding("shared memory", "warning", seen, advice)
    return Finding("shared memory", "ok", seen)


def open_files() -> Finding:
    """Return how many files a process may open."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or most >= LEAST_FILES:
        return Finding("open files", "ok", "unlimited" if most == resource.RLIM_INFINITY else f"up to {most}")
    return Finding(
        "open files",
        "warning",
        f"up to {most}",
        f"Allow {LEAST_FILES}: ulimit -n, or systemd's LimitNOFILE.",
    )


def disk(folder: Path, least: int) -> Finding:
    """Return how much disk is left for videos, of which ``least`` bytes must stay free."""
    there = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists()))
    seen = f"{_gb(there.free)} of {_gb(there.total)} free at {folder}"
    if there.free < least:
        return Finding("disk", "problem", seen, f"Free some: under {_gb(least)} no task is taken.")
    if there.free < 10 * least:
        return Finding("disk", "warning", seen, f"Free some: under {_gb(least)} no task is taken.")
    return Finding("disk", "ok", seen)


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
