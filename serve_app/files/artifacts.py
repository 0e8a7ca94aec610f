"""The service's artifacts: the input images of tasks, the videos of attempts, and their public names.

Every attempt of a task writes its own immutable file. The task's committed row names the one that is the
result. The public name is linked only after that commit and only from the row, so the link is idempotent: a
crash can be followed by a second one.
"""

import filecmp
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from serve_app.errors import FileNotFound, PathForbidden
from serve_app.files import durable
from serve_app.files.output_paths import OutputPaths, SavePath
from serve_app.tasks.video_output import VideoFormat

_ATTEMPTS = ".attempts"
_INPUTS = "inputs"
_PREVIEWS = "previews"
_CHECKPOINTS = "checkpoints"
_TASK_PREFIX = "t-"  # a task id may be ".." or start with a dot; a folder's name must not
_TASK_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_INPUT_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


class LocalArtifacts:
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
        durable.make_folder(self._root / _ATTEMPTS)
        durable.make_folder(self._data / _INPUTS)
        durable.make_folder(self._data / _PREVIEWS)
        durable.make_folder(self._data / _CHECKPOINTS)

    def key(self, task_id: str, attempt: int, form: VideoFormat = VideoFormat.MP4) -> str:
        """Return the key under which a task's row stores the video of this attempt."""
        return f"{_ATTEMPTS}/{_folder_name(task_id)}/{attempt:d}{form.suffix}"

    def attempt_path(self, task_id: str, attempt: int, form: VideoFormat = VideoFormat.MP4) -> Path:
        """Return the file that this attempt writes, after creating its folder."""
        path = self._root / self.key(task_id, attempt, form)
        durable.make_folder(path.parent)
        return path

    def path_of(self, key: str) -> Path:
        """Return the file of an artifact key. Raises ``FileNotFound``."""
        return _file_below(self._root / _ATTEMPTS, self._root, key)

    def publish_alias(self, key: str, place: SavePath) -> None:
        """Link a committed video to its public name, over an older file there. Idempotent.

        Raises ``FileNotFound``, ``PathForbidden`` when symbolic links now lead out of the root, ``OSError``.
        """
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

    def put_input(self, task_id: str, name: str, data: bytes) -> str:
        """Store an input of a task, such as ``image.png``; return its key.

        Raises ``ValueError`` for an invalid name, ``OSError``.
        """
        key = self.input_key(task_id, name)
        path = self._data / key
        durable.make_folder(path.parent)
        durable.write(path, data)
        return key

    def link_video(self, task_id: str, key: str) -> str:
        """Store the video of that artifact key as an input of a task, without a copy where that can be.

        Returns the input's key. It stays when the video is deleted. Raises ``FileNotFound``, ``OSError``.
        """
        source = self.path_of(key)
        input_key = f"{_INPUTS}/{_folder_name(task_id)}/earlier{source.suffix}"
        target = self._data / input_key
        durable.make_folder(target.parent)
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without hard links
            _copy(source, target)
        durable.sync_folder(target.parent)
        return input_key

    def make_input(self, task_id: str, name: str, make: Callable[[Path], None]) -> str:
        """Store an input of a task that ``make`` writes to the path that it is given; return its key.

        Raises ``ValueError`` for an invalid name, ``OSError``, and what ``make`` raises.
        """
        key = self.input_key(task_id, name)
        path = self._data / key
        durable.make_folder(path.parent)
        temp = durable.temp_beside(path)
        try:
            make(temp)
            durable.replace(temp, path)
        finally:
            temp.unlink(missing_ok=True)
        return key

    @staticmethod
    def input_key(task_id: str, name: str) -> str:
        """Return the key of an input of a task. Raises ``ValueError`` for an invalid name."""
        if not _INPUT_NAME.fullmatch(name):
            raise ValueError(f"an input cannot be named {name!r}")
        return f"{_INPUTS}/{_folder_name(task_id)}/{name}"

    def input_path(self, key: str) -> Path:
        """Return the file of a stored input. Raises ``FileNotFound``."""
        return _file_below(self._data / _INPUTS, self._data, key)

    def read_input(self, key: str) -> bytes:
        """Read a stored input. Raises ``FileNotFound``."""
        return self.input_path(key).read_bytes()

    def put_preview(self, task_id: str, attempt: int, *, still: bytes, strip: bytes) -> None:
        """Store the newest preview of an attempt, over the one before: whole, but not to survive a power cut.

        Raises ``OSError``.
        """
        for form, data in (("still", still), ("strip", strip)):
            path = self._preview_path(task_id, attempt, form)
            path.parent.mkdir(exist_ok=True)
            _replace(path, data)

    def read_preview(self, task_id: str, attempt: int, form: str) -> bytes:
        """Read an attempt's newest preview, WebP; ``form``: still or strip. Raises ``FileNotFound``."""
        try:
            return self._preview_path(task_id, attempt, form).read_bytes()
        except OSError:
            raise FileNotFound("There is no preview.") from None

    def put_checkpoint(self, task_id: str, name: str, data: bytes) -> None:
        """Store a checkpoint of a task: whole, but not to survive a power cut.

        Raises ``ValueError`` for an invalid name, ``OSError``.
        """
        path = self._checkpoint_path(task_id, name)
        path.parent.mkdir(exist_ok=True)
        _replace(path, data)

    def checkpoints(self, task_id: str) -> Sequence[str]:
        """Return the names of a task's checkpoints, in no particular order. Raises ``OSError``."""
        with suppress(FileNotFoundError), os.scandir(self._checkpoint_folder(task_id)) as entries:
            return [entry.name for entry in entries if not entry.name.startswith(".")]
        return ()

    def read_checkpoint(self, task_id: str, name: str) -> bytes:
        """Read a checkpoint. Raises ``FileNotFound``, ``ValueError`` for an invalid name, ``OSError``."""
        try:
            return self._checkpoint_path(task_id, name).read_bytes()
        except FileNotFoundError:
            raise FileNotFound("There is no such checkpoint.") from None

    def delete_checkpoint(self, task_id: str, name: str) -> None:
        """Delete a checkpoint. Idempotent. Raises ``ValueError`` for an invalid name, ``OSError``."""
        self._checkpoint_path(task_id, name).unlink(missing_ok=True)

    def delete_checkpoints(self, task_id: str) -> None:
        """Delete all checkpoints of a task. Idempotent. Raises ``OSError``."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self._checkpoint_folder(task_id))

    def task_ids_with_checkpoints(self) -> Sequence[str]:
        """Return the ids of all tasks that have checkpoints. Raises ``OSError``."""
        return _task_ids(self._data / _CHECKPOINTS)

    def delete_task_files(self, task_id: str, place: SavePath | None, key: str | None) -> None:
        """Delete a task's files, and its public name if that still names its video. Idempotent.

        ``place`` and ``key`` are the row's public path and artifact key; None when the row has none.
        """
        if place is not None and key is not None:
            with suppress(FileNotFound, PathForbidden):
                source = self.path_of(key)
                self._outputs.check_place(place)
                if _is_same_file(source, place.path):
                    place.path.unlink(missing_ok=True)
        for folder in self._task_folders(task_id):
            with suppress(FileNotFoundError):
                shutil.rmtree(folder)

    def task_ids_with_files(self) -> Iterator[str]:
        """Return the ids of all tasks that have files, each once, in no particular order."""
        parents = [
            self._root / _ATTEMPTS,
            *(self._data / name for name in (_INPUTS, _PREVIEWS, _CHECKPOINTS)),
        ]
        return iter({task_id for parent in parents for task_id in _task_ids(parent)})

    def free_bytes(self) -> int:
        """Return the free bytes of the fuller of the two disks that are written to."""
        return min(shutil.disk_usage(folder).free for folder in (self._root, self._data))

    def _preview_path(self, task_id: str, attempt: int, form: str) -> Path:
        return self._data / _PREVIEWS / _folder_name(task_id) / f"{attempt:d}-{form}.webp"

    def _task_folders(self, task_id: str) -> tuple[Path, ...]:
        name = _folder_name(task_id)
        folders = (self._data / kind / name for kind in (_INPUTS, _PREVIEWS, _CHECKPOINTS))
        return self._root / _ATTEMPTS / name, *folders

    def _checkpoint_folder(self, task_id: str) -> Path:
        return self._data / _CHECKPOINTS / _folder_name(task_id)

    def _checkpoint_path(self, task_id: str, name: str) -> Path:
        if not _INPUT_NAME.fullmatch(name):
            raise ValueError(f"a checkpoint cannot be named {name!r}")
        return self._checkpoint_folder(task_id) / name


def _folder_name(task_id: str) -> str:
    if not _TASK_ID.fullmatch(task_id):
        raise ValueError(f"{task_id!r} is not a task id")
    return _TASK_PREFIX + task_id


def _task_ids(parent: Path) -> list[str]:
    """Return the ids of the tasks that have a folder in ``parent``."""
    with os.scandir(parent) as entries:
        names = [entry.name for entry in entries]
    return [name.removeprefix(_TASK_PREFIX) for name in names if name.startswith(_TASK_PREFIX)]


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
