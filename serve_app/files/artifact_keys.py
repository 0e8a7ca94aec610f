"""Keys of artifacts: where each lies below the folder, or the prefix of a bucket, that all of them are in."""

import re
from pathlib import PurePosixPath

from serve_app.tasks.video_output import VideoFormat

ATTEMPTS = ".attempts"
INPUTS = "inputs"
PREVIEWS = "previews"
CHECKPOINTS = "checkpoints"
FOLDERS = (ATTEMPTS, INPUTS, PREVIEWS, CHECKPOINTS)
"""All folders that have one for each task."""

_TASK_PREFIX = "t-"  # a task id may be ".." or start with a dot; a folder's name must not
_TASK_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_INPUT_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


def video_key(task_id: str, attempt: int, form: VideoFormat = VideoFormat.MP4) -> str:
    """Return the key under which a task's row stores the video of this attempt."""
    return f"{ATTEMPTS}/{folder_name(task_id)}/{attempt:d}{form.suffix}"


def input_key(task_id: str, name: str) -> str:
    """Return the key of an input of a task. Raises ``ValueError`` for an invalid name."""
    if not _INPUT_NAME.fullmatch(name):
        raise ValueError(f"an input cannot be named {name!r}")
    return f"{INPUTS}/{folder_name(task_id)}/{name}"


def earlier_key(task_id: str, video: str) -> str:
    """Return the key of the input that is the video of that key, which the task goes on from."""
    return input_key(task_id, f"earlier{PurePosixPath(video).suffix}")


def preview_key(task_id: str, attempt: int, form: str) -> str:
    """Return the key of an attempt's newest preview; ``form``: still or strip."""
    return f"{PREVIEWS}/{folder_name(task_id)}/{attempt:d}-{form}.webp"


def checkpoint_key(task_id: str, name: str) -> str:
    """Return the key of a checkpoint of a task. Raises ``ValueError`` for an invalid name."""
    if not _INPUT_NAME.fullmatch(name):
        raise ValueError(f"a checkpoint cannot be named {name!r}")
    return f"{CHECKPOINTS}/{folder_name(task_id)}/{name}"


def folder_name(task_id: str) -> str:
    """Return the name of a task's folders. Raises ``ValueError`` for what is no task id."""
    if not _TASK_ID.fullmatch(task_id):
        raise ValueError(f"{task_id!r} is not a task id")
    return _TASK_PREFIX + task_id


def task_id_of(folder: str) -> str | None:
    """Return the id of the task whose folders have that name; None for another folder."""
    return folder.removeprefix(_TASK_PREFIX) if folder.startswith(_TASK_PREFIX) else None


def is_below(key: str, *folders: str) -> bool:
    """Return whether a key leads into one of ``folders``, and nowhere else."""
    parts = key.split("/")
    return parts[0] in folders and not {"", ".", ".."} & set(parts)
