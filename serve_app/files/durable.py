"""Durable, atomic file writes: a file is whole or absent, also after a power cut.

A file becomes visible by a rename after an fsync of its bytes, and its folder is synced too: otherwise a row
could be committed that names a file which is missing after a crash.
"""

import os
import secrets
from pathlib import Path


def temp_beside(target: Path) -> Path:
    """Return an unused hidden name in the folder of ``target``, for a file that is still being written.

    The name does not include the target's own, which may already have the greatest length.
    """
    return target.with_name(f".{secrets.token_hex(8)}.part")


def make_folder(folder: Path) -> None:
    """Create ``folder`` and its parents durably. Raises ``OSError``."""
    missing = [folder]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    for path in reversed(missing):
        if not path.is_dir():
            path.mkdir(exist_ok=True)
            sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Sync the bytes of ``path`` to the disk. Raises ``OSError``."""
    _sync(path, os.O_RDONLY)


def sync_folder(folder: Path) -> None:
    """Sync the entries of ``folder`` to the disk. Raises ``OSError``."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def replace(temp: Path, target: Path) -> None:
    """Rename ``temp`` to ``target`` durably, over an older file. Both must be on one file system.

    Raises ``OSError``.
    """
    sync_file(temp)
    os.replace(temp, target)
    sync_folder(target.parent)


def write(target: Path, data: bytes) -> None:
    """Write ``data`` to ``target`` durably; its folder must exist.

    Raises ``OSError`` and then leaves no file.
    """
    temp = temp_beside(target)
    try:
        temp.write_bytes(data)
        replace(temp, target)
    finally:
        temp.unlink(missing_ok=True)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
