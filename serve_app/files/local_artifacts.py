"""Artifacts in local folders, which several nodes may share."""

import filecmp
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from typing_extensions import override

from serve_app.errors import FileNotFound, PathForbidden
from serve_app.files import durable
from serve_app.files.artifact_keys import (
    ATTEMPTS,
    CHECKPOINTS,
    FOLDERS,
    INPUTS,
    PREVIEWS,
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
from serve_app.files.output_paths import OutputPaths, SavePath
from serve_app.files.stored_file import DiskFile
from serve_app.tasks.video_output import VideoFormat


class LocalArtifacts(Artifacts):
    """Artifacts in local folders: videos below the output root, inputs below the data folder.

    Keys are POSIX paths relative to one of the two folders, so both folders may be moved.
    """

    def __init__(self, outputs: OutputPaths, data_folder: Path) -> None:
        """Create the folders. Raises ``ValueError`` when the data folder lies in the output root."""
        if data_folder.resolve().is_relative_to(outputs.output_root.resolve()):
            raise ValueError("the data folder must not lie in the output root, which clients download from")
        self._outputs = outputs
        self._root = outputs.output_root
        self._data = data_folder
        durable.make_folder(self._root / ATTEMPTS)
        durable.make_folder(self._data / INPUTS)
        durable.make_folder(self._data / PREVIEWS)
        durable.make_folder(self._data / CHECKPOINTS)

    @override
    def key(self, task_id: str, attempt: int, form: VideoFormat = VideoFormat.MP4) -> str:
        return video_key(task_id, attempt, form)

    @override
    def attempt_path(self, task_id: str, attempt: int, form: VideoFormat = VideoFormat.MP4) -> Path:
        path = self._root / video_key(task_id, attempt, form)
        durable.make_folder(path.parent)
        return path

    @override
    def store_attempt(self, task_id: str, attempt: int, form: VideoFormat = VideoFormat.MP4) -> None:
        # The file was written to its place already, and synced.
        self.path_of(video_key(task_id, attempt, form))

    @override
    def find(self, key: str) -> DiskFile:
        try:
            return DiskFile.of(self.path_of(key))
        except OSError:
            raise FileNotFound("There is no such file.") from None

    @override
    def put_still(self, key: str, data: bytes) -> None:
        folder = self._root / PurePosixPath(key).parent
        if not is_below(key, ATTEMPTS) or not folder.is_dir():
            raise FileNotFound("There is no such video.")  # or no more
        durable.write(folder / PurePosixPath(key).name, data)

    @override
    def path_of(self, key: str) -> Path:
        return _file_below(self._root / ATTEMPTS, self._root, key)

    @override
    def publish_alias(self, key: str, place: SavePath) -> None:
        source, target = self.path_of(key), place.path
        self._outputs.check_place(place)
        durable.make_folder(target.parent)
        self._outputs.check_place(place)  # again, now that the folder exists
        if not _is_same_file(source, target):
            # Next to the source, so that a link left by a crash is deleted with the task's folder.
            link = durable.temp_beside(source)
            try:
                os.link(source, link)
                durable.replace(link, target)
            except OSError:  # another file system, or one without hard links
                _copy(source, target)
            finally:
                link.unlink(missing_ok=True)

    @override
    def put_input(self, task_id: str, name: str, data: bytes) -> str:
        key = input_key(task_id, name)
        path = self._data / key
        durable.make_folder(path.parent)
        durable.write(path, data)
        return key

    @override
    def link_video(self, task_id: str, key: str) -> str:
        source = self.path_of(key)
        copy_key = earlier_key(task_id, key)
        target = self._data / copy_key
        durable.make_folder(target.parent)
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without hard links
            _copy(source, target)
        durable.sync_folder(target.parent)
        return copy_key

    @override
    def make_input(self, task_id: str, name: str, make: Callable[[Path], None]) -> str:
        key = input_key(task_id, name)
        path = self._data / key
        durable.make_folder(path.parent)
        temp = durable.temp_beside(path)
        try:
            make(temp)
            durable.replace(temp, path)
        finally:
            temp.unlink(missing_ok=True)
        return key

    @override
    def input_path(self, key: str) -> Path:
        return _file_below(self._data / INPUTS, self._data, key)

    @override
    def read_input(self, key: str) -> bytes:
        return self.input_path(key).read_bytes()

    @override
    def put_preview(self, task_id: str, attempt: int, *, still: bytes, strip: bytes) -> None:
        for form, data in (("still", still), ("strip", strip)):
            path = self._preview_path(task_id, attempt, form)
            path.parent.mkdir(exist_ok=True)
            _replace(path, data)

    @override
    def read_preview(self, task_id: str, attempt: int, form: str) -> bytes:
        try:
            return self._preview_path(task_id, attempt, form).read_bytes()
        except OSError:
            raise FileNotFound("There is no preview.") from None

    @override
    def put_checkpoint(self, task_id: str, name: str, data: bytes) -> None:
        path = self._data / checkpoint_key(task_id, name)
        path.parent.mkdir(exist_ok=True)
        _replace(path, data)

    @override
    def checkpoints(self, task_id: str) -> Sequence[str]:
        with suppress(FileNotFoundError), os.scandir(self._checkpoint_folder(task_id)) as entries:
            return [entry.name for entry in entries if not entry.name.startswith(".")]
        return ()

    @override
    def read_checkpoint(self, task_id: str, name: str) -> bytes:
        try:
            return (self._data / checkpoint_key(task_id, name)).read_bytes()
        except FileNotFoundError:
            raise FileNotFound("There is no such checkpoint.") from None

    @override
    def delete_checkpoint(self, task_id: str, name: str) -> None:
        (self._data / checkpoint_key(task_id, name)).unlink(missing_ok=True)

    @override
    def delete_checkpoints(self, task_id: str) -> None:
        with suppress(FileNotFoundError):
            shutil.rmtree(self._checkpoint_folder(task_id))

    @override
    def task_ids_with_checkpoints(self) -> Sequence[str]:
        return _task_ids(self._data / CHECKPOINTS)

    @override
    def delete_task_files(self, task_id: str, place: SavePath | None, key: str | None) -> None:
        if place is not None and key is not None:
            with suppress(FileNotFound, PathForbidden):
                source = self.path_of(key)
                self._outputs.check_place(place)
                if _is_same_file(source, place.path):
                    place.path.unlink(missing_ok=True)
        for folder in self._task_folders(task_id):
            with suppress(FileNotFoundError):
                shutil.rmtree(folder)

    @override
    def task_ids_with_files(self) -> Iterator[str]:
        parents = [self._folder(name) for name in FOLDERS]
        return iter({task_id for parent in parents for task_id in _task_ids(parent)})

    @override
    def free_bytes(self) -> int:
        return min(shutil.disk_usage(folder).free for folder in (self._root, self._data))

    def _preview_path(self, task_id: str, attempt: int, form: str) -> Path:
        return self._data / preview_key(task_id, attempt, form)

    def _task_folders(self, task_id: str) -> Sequence[Path]:
        return [self._folder(kind) / folder_name(task_id) for kind in FOLDERS]

    def _folder(self, kind: str) -> Path:
        return (self._root if kind == ATTEMPTS else self._data) / kind

    def _checkpoint_folder(self, task_id: str) -> Path:
        return self._data / CHECKPOINTS / folder_name(task_id)


def _task_ids(parent: Path) -> list[str]:
    """Return the ids of the tasks that have a folder in ``parent``."""
    with os.scandir(parent) as entries:
        found = [task_id_of(entry.name) for entry in entries]
    return [task_id for task_id in found if task_id is not None]


def _replace(path: Path, data: bytes) -> None:
    """Write a file that is whole or absent, over an older one; a power cut may take it."""
    temp = durable.temp_beside(path)
    try:
        temp.write_bytes(data)
        os.replace(temp, path)
    finally:
        temp.unlink(missing_ok=True)


def _file_below(folder: Path, base: Path, key: str) -> Path:
    """Return the regular file ``key`` below ``base``.

    Raises ``FileNotFound``, also for a file outside ``folder``.
    """
    try:
        path = base / PurePosixPath(key)
        real = path.resolve()
        if ".." not in path.parts and real.is_relative_to(folder.resolve()) and real.is_file():
            return real
    except (OSError, ValueError):  # an invalid file name
        pass
    raise FileNotFound("There is no such file.")


def _is_same_file(source: Path, alias: Path) -> bool:
    """Return True if ``alias`` is a hard link to ``source``, or a copy that ``_copy`` made of it."""
    try:
        if alias.is_symlink():
            return False
        one, other = source.stat(), alias.stat()
    except OSError:
        return False
    if os.path.samestat(one, other):
        return True
    # The time distinguishes two tasks with the same bytes; some file systems store it to two seconds.
    return abs(one.st_mtime - other.st_mtime) <= 2 and filecmp.cmp(source, alias, shallow=False)


def _copy(source: Path, target: Path) -> None:
    temp = durable.temp_beside(target)
    try:
        shutil.copy2(source, temp)
        durable.replace(temp, target)
    finally:
        temp.unlink(missing_ok=True)
