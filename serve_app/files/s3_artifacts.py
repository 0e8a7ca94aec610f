"""Artifacts in an S3 bucket, for nodes that share no folder."""

import mimetypes
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from typing_extensions import override

from serve_app.errors import FileNotFound, PathForbidden
from serve_app.files import durable
from serve_app.files.artifact_keys import (
    ATTEMPTS,
    CHECKPOINTS,
    FOLDERS,
    INPUTS,
    checkpoint_key,
    earlier_key,
    folder_name,
    input_key,
    is_below,
    preview_key,
    task_id_of,
    video_key,
)
from serve_app.files.artifacts import Artifacts
from serve_app.files.bucket import Bucket, ObjectFacts
from serve_app.files.file_copies import FileCopies, delete_unused
from serve_app.files.output_paths import PUBLIC_ROOT, OutputPaths, SavePath
from serve_app.tasks.video_output import VideoFormat

_LEFT_S = 7 * 86400.0
"""Seconds after which what lies in the scratch folder is taken for that of a process that was killed."""
_MARK = "artifact"
"""What a public name is marked with: the key of the video that it is of."""


class S3Artifacts(Artifacts):
    """Artifacts in a bucket. ``scratch``: a folder of this machine for what is written, and what is read.

    A public name is a copy below ``outputs/``, made by the S3 service, which tells by a mark of whose video.
    """

    def __init__(self, bucket: Bucket, outputs: OutputPaths, scratch: Path) -> None:
        self.bucket = bucket
        self._outputs = outputs
        self._scratch = scratch / "attempts"
        self._scratch.mkdir(parents=True, exist_ok=True)
        delete_unused(self._scratch, _LEFT_S)
        self._copies = FileCopies(scratch / "copies")

    @override
    def key(self, task_id: str, attempt: int, form: VideoFormat = VideoFormat.MP4) -> str:
        return video_key(task_id, attempt, form)

    @override
    def attempt_path(self, task_id: str, attempt: int, form: VideoFormat = VideoFormat.MP4) -> Path:
        path = self._scratch / folder_name(task_id) / f"{attempt:d}{form.suffix}"
        path.parent.mkdir(exist_ok=True)
        return path

    @override
    def store_attempt(self, task_id: str, attempt: int, form: VideoFormat = VideoFormat.MP4) -> None:
        path, key = self.attempt_path(task_id, attempt, form), video_key(task_id, attempt, form)
        if not path.is_file():
            raise FileNotFound("There is no such file.")
        self.bucket.put_file(key, path, media_type=form.media_type)
        path.unlink()
        with suppress(OSError):  # another attempt of the task may be at work on this machine
            path.parent.rmdir()

    @override
    def find(self, key: str) -> "BucketFile":
        return BucketFile(self.bucket, _checked(key, ATTEMPTS), self.bucket.facts(key))

    @override
    def path_of(self, key: str) -> Path:
        return self._copy(_checked(key, ATTEMPTS))

    @override
    def put_still(self, key: str, data: bytes) -> None:
        self._put(_checked(key, ATTEMPTS), data)

    @override
    def publish_alias(self, key: str, place: SavePath) -> None:
        target = self._alias(place)
        if not self._is_of(target, key):
            self.bucket.copy(_checked(key, ATTEMPTS), target, media_type=_media_type(key), marks={_MARK: key})

    @override
    def put_input(self, task_id: str, name: str, data: bytes) -> str:
        key = input_key(task_id, name)
        self._put(key, data)
        return key

    @override
    def make_input(self, task_id: str, name: str, make: Callable[[Path], None]) -> str:
        key = input_key(task_id, name)
        temp = durable.temp_beside(self._scratch / name)
        try:
            make(temp)
            self.bucket.put_file(key, temp, media_type=_media_type(key))
        finally:
            temp.unlink(missing_ok=True)
        return key

    @override
    def link_video(self, task_id: str, key: str) -> str:
        copy_key = earlier_key(task_id, key)
        self.bucket.copy(_checked(key, ATTEMPTS), copy_key, media_type=_media_type(key), marks={})
        return copy_key

    @override
    def input_path(self, key: str) -> Path:
        return self._copy(_checked(key, INPUTS))

    @override
    def read_input(self, key: str) -> bytes:
        return self.bucket.read(_checked(key, INPUTS))

    @override
    def put_preview(self, task_id: str, attempt: int, *, still: bytes, strip: bytes) -> None:
        for form, data in (("still", still), ("strip", strip)):
            self._put(preview_key(task_id, attempt, form), data)

    @override
    def read_preview(self, task_id: str, attempt: int, form: str) -> bytes:
        return self.bucket.read(preview_key(task_id, attempt, form))

    @override
    def put_checkpoint(self, task_id: str, name: str, data: bytes) -> None:
        self._put(checkpoint_key(task_id, name), data)

    @override
    def checkpoints(self, task_id: str) -> Sequence[str]:
        return self.bucket.names(f"{CHECKPOINTS}/{folder_name(task_id)}")

    @override
    def read_checkpoint(self, task_id: str, name: str) -> bytes:
        return self.bucket.read(checkpoint_key(task_id, name))

    @override
    def delete_checkpoint(self, task_id: str, name: str) -> None:
        self.bucket.delete(checkpoint_key(task_id, name))

    @override
    def delete_checkpoints(self, task_id: str) -> None:
        self.bucket.delete_folder(f"{CHECKPOINTS}/{folder_name(task_id)}")

    @override
    def task_ids_with_checkpoints(self) -> Sequence[str]:
        found = map(task_id_of, self.bucket.folders(CHECKPOINTS))
        return [task_id for task_id in found if task_id is not None]

    @override
    def delete_task_files(self, task_id: str, place: SavePath | None, key: str | None) -> None:
        if place is not None and key is not None:
            with suppress(PathForbidden):
                alias = self._alias(place)
                if self._is_of(alias, key):
                    self.bucket.delete(alias)
        for folder in FOLDERS:
            self.bucket.delete_folder(f"{folder}/{folder_name(task_id)}")

    @override
    def task_ids_with_files(self) -> Iterator[str]:
        found = {task_id_of(name) for folder in FOLDERS for name in self.bucket.folders(folder)}
        return (task_id for task_id in found if task_id is not None)

    @override
    def free_bytes(self) -> int:
        return shutil.disk_usage(self._scratch).free

    def _put(self, key: str, data: bytes) -> None:
        self.bucket.put(key, data, media_type=_media_type(key))

    def _copy(self, key: str) -> Path:
        def fetch(path: Path) -> None:
            with path.open("wb") as file:
                for chunk in self.bucket.chunks(key, 0, self.bucket.facts(key).size):
                    file.write(chunk)

        return self._copies.of(key, fetch)

    def _alias(self, place: SavePath) -> str:
        """Return the key of a public name. Raises ``PathForbidden`` for one in another folder."""
        if place.root != self._outputs.output_root:
            raise PathForbidden("Videos in a bucket have no names in folders.")
        return f"{PUBLIC_ROOT}/{place.relative}"

    def _is_of(self, alias: str, key: str) -> bool:
        """Return whether a public name is that of the video with that key."""
        try:
            return self.bucket.facts(alias).marks.get(_MARK) == key
        except FileNotFound:
            return False


@dataclass(frozen=True, slots=True)
class BucketFile:
    """A video, or a picture of one, in a bucket."""

    bucket: Bucket
    key: str
    facts: ObjectFacts

    @property
    def name(self) -> str:
        """Its name without folders."""
        return PurePosixPath(self.key).name

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.facts.size

    @property
    def modified_at(self) -> float:
        """When it was stored, in seconds since the epoch."""
        return self.facts.modified_at

    @property
    def tag(self) -> str:
        """Its entity tag, as the S3 service tells it."""
        return self.facts.tag

    def chunks(self, begin: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from ``begin`` to before ``end``. Raises ``FileNotFound``, ``StoreUnavailable``."""
        return self.bucket.chunks(self.key, begin, end)

    def link(self, *, disposition: str, media_type: str) -> str | None:
        """Return where the client itself may get the file for some minutes; None unless that is set."""
        return self.bucket.link(self.key, disposition=disposition, media_type=media_type)


def _checked(key: str, folder: str) -> str:
    if not is_below(key, folder):
        raise FileNotFound("There is no such file.")
    return key


def _media_type(key: str) -> str:
    form = VideoFormat.of_file(key)
    return form.media_type if form else mimetypes.guess_type(key)[0] or "application/octet-stream"
