"""Files that are whole or not there, also after a power cut.

A file becomes visible by a rename after its bytes are on the disk, and the folder that names it is synced
too: without that, a row could be committed about a file that the next start does not find.
"""

import os
import secrets
from pathlib import Path


def temp_beside(target: Path) -> Path:
    """A free hidden name in the folder of ``target``, for a file that is still being written.

    The name does not hold the target's own, which may already be as long as a name can be.
    """
    return target.with_name(f".{secrets.token_hex(8)}.part")


def make_folder(folder: Path) -> None:
    """Make ``folder`` and its parents; each one made survives a crash."""
    missing = [folder]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    for path in reversed(missing):
        if not path.is_dir():
            path.mkdir(exist_ok=True)
            sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Wait until the bytes of ``path`` are on the disk."""
    _sync(path, os.O_RDONLY)


def sync_folder(folder: Path) -> None:
    """Wait until the names in ``folder`` are on the disk."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def replace(temp: Path, target: Path) -> None:
    """Put the finished file ``temp`` at ``target``, over whatever is there. Both lie on one file system."""
    sync_file(temp)
    os.replace(temp, target)
    sync_folder(target.parent)


def write(target: Path, data: bytes) -> None:
    """Put a file of ``data`` at ``target``, whose folder exists. Leaves nothing where it raises OSError."""
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
