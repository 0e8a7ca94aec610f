"""The service's artifacts: what it keeps of its tasks beside their rows, for every node that asks.

Every attempt of a task writes its own immutable file. The task's committed row names the one that is the
result. The public name is made only after that commit and only from the row, so making it is idempotent: a
crash can be followed by a second one.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from serve_app.files.output_paths import SavePath
from serve_app.files.stored_file import StoredFile
from serve_app.tasks.video_output import VideoFormat


class Artifacts(Protocol):
    """The videos of attempts, their pictures, inputs, previews, checkpoints, and public names.

    In folders that all nodes share, or in a bucket. All methods block, and any may raise ``StoreUnavailable``
    or ``OSError``, after which it may be called again. ``tests/contract/test_artifacts.py`` says what holds.
    """

    def key(self, task_id: str, attempt: int, form: VideoFormat = VideoFormat.MP4) -> str:
        """Return the key under which a task's row stores the video of this attempt."""

    def attempt_path(self, task_id: str, attempt: int, form: VideoFormat = VideoFormat.MP4) -> Path:
        """Return the file on this machine that this attempt writes, after creating its folder."""

    def store_attempt(self, task_id: str, attempt: int, form: VideoFormat = VideoFormat.MP4) -> None:
        """Have the file that this attempt wrote lie complete under its key, for every node.

        Raises ``FileNotFound``.
        """

    def find(self, key: str) -> StoredFile:
        """Return a video, or a picture of one, by its key. Raises ``FileNotFound``."""

    def path_of(self, key: str) -> Path:
        """Return a file on this machine with what has that key. Raises ``FileNotFound``.

        It is only to be read, within the hour.
        """

    def put_still(self, key: str, data: bytes) -> None:
        """Store a picture of a video; its key is the video's but for the suffix. Raises ``FileNotFound``."""

    def publish_alias(self, key: str, place: SavePath) -> None:
        """Give a committed video its public name, over an older file there. Idempotent.

        Raises ``FileNotFound``, ``PathForbidden`` when the name now leads out of the output folders.
        """

    def put_input(self, task_id: str, name: str, data: bytes) -> str:
        """Store an input of a task, such as ``image.png``; return its key.

        Raises ``ValueError`` for an invalid name.
        """

    def make_input(self, task_id: str, name: str, make: Callable[[Path], None]) -> str:
        """Store an input of a task that ``make`` writes to the path that it is given; return its key.

        Raises ``ValueError`` for an invalid name, and what ``make`` raises.
        """

    def link_video(self, task_id: str, key: str) -> str:
        """Store the video of that artifact key as an input of a task; return the input's key.

        It stays when the video is deleted. Raises ``FileNotFound``.
        """

    def input_path(self, key: str) -> Path:
        """Return a file on this machine with a stored input. Raises ``FileNotFound``.

        It is only to be read, within the hour.
        """

    def read_input(self, key: str) -> bytes:
        """Read a stored input. Raises ``FileNotFound``."""

    def put_preview(self, task_id: str, attempt: int, *, still: bytes, strip: bytes) -> None:
        """Store the newest preview of an attempt, over the one before: whole, but perhaps not for long."""

    def read_preview(self, task_id: str, attempt: int, form: str) -> bytes:
        """Read an attempt's newest preview, WebP; ``form``: still or strip. Raises ``FileNotFound``."""

    def put_checkpoint(self, task_id: str, name: str, data: bytes) -> None:
        """Store a checkpoint of a task: whole. Raises ``ValueError`` for an invalid name."""

    def checkpoints(self, task_id: str) -> Sequence[str]:
        """Return the names of a task's checkpoints, in no particular order."""

    def read_checkpoint(self, task_id: str, name: str) -> bytes:
        """Read a checkpoint. Raises ``FileNotFound``, ``ValueError`` for an invalid name."""

    def delete_checkpoint(self, task_id: str, name: str) -> None:
        """Delete a checkpoint. Idempotent. Raises ``ValueError`` for an invalid name."""

    def delete_checkpoints(self, task_id: str) -> None:
        """Delete all checkpoints of a task. Idempotent."""

    def task_ids_with_checkpoints(self) -> Sequence[str]:
        """Return the ids of all tasks that have checkpoints."""

    def delete_task_files(self, task_id: str, place: SavePath | None, key: str | None) -> None:
        """Delete a task's files, and its public name if that still names its video. Idempotent.

        ``place`` and ``key`` are the row's public path and artifact key; None when the row has none.
        """

    def task_ids_with_files(self) -> Iterator[str]:
        """Return the ids of all tasks that have files, each once, in no particular order."""

    def free_bytes(self) -> int:
        """Return the free bytes of the fullest disk that is written to."""
