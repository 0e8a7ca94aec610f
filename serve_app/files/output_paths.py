"""Output paths: the names that clients choose for videos, resolved to places on the disk."""

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from serve_app.errors import InvalidField, PathForbidden, ServiceError
from serve_app.tasks.video_output import VideoFormat

PUBLIC_ROOT = "outputs"  # name of the output root in responses, independent of its real path
_PLAIN = VideoFormat.MP4
MAX_SEGMENT_BYTES = 255
MAX_NAME_BYTES = 1024


@dataclass(frozen=True, slots=True)
class SavePath:
    """A place for a video: ``relative`` below ``root``, an output folder of the service."""

    root: Path
    relative: PurePosixPath

    @property
    def path(self) -> Path:
        """The place on the disk."""
        return self.root / self.relative


@dataclass(frozen=True, slots=True)
class OutputPaths:
    """Resolves the names that clients choose for videos."""

    output_root: Path
    extra_roots: tuple[Path, ...] = ()
    """Further folders that absolute paths may lead into."""
    folder: str = ""
    """Folder below the output root to which relative names are resolved."""
    takes_absolute: bool = True
    """True if absolute paths are allowed, also into other owners' folders."""

    def below(self, folder: str, *, takes_absolute: bool) -> "OutputPaths":
        """Return these paths for a client with its own folder."""
        return replace(self, folder=folder, takes_absolute=takes_absolute)

    def resolve(self, name: str, field: str = "save_result_path", *, form: VideoFormat = _PLAIN) -> SavePath:
        """Resolve ``name`` to a place.

        A relative name is resolved below the output root (or the client's folder there), without one leading
        ``outputs/`` and the folder's own name after it. An absolute path must lie below one of the roots.
        The format's suffix, ``.mp4`` as usual, is appended to a name that does not end in it.

        Raises ``PathForbidden`` for a name that leads out of the roots or to a hidden file, ``InvalidField``
        for an invalid file name.
        """
        _check_text(name, field)
        if name.startswith("/"):
            root, segments = self._below_a_root(name, field)
        else:
            root, segments = self.output_root, self._below_the_folder(_segments(name, field))
        if not segments[-1].lower().endswith(form.suffix):
            segments = [*segments[:-1], segments[-1] + form.suffix]
        if any(len(segment.encode()) > MAX_SEGMENT_BYTES for segment in segments):
            raise InvalidField(field, f"{field} has a part longer than {MAX_SEGMENT_BYTES} bytes.")
        place = SavePath(root, PurePosixPath(*segments))
        self.check_place(place)
        _check_free(place, field)
        return place

    def check_place(self, place: SavePath) -> None:
        """Raise ``PathForbidden`` if symbolic links lead out of the root or into a hidden folder."""
        real_root = Path(os.path.realpath(place.root))
        real_folder = Path(os.path.realpath(place.path.parent))
        if not real_folder.is_relative_to(real_root) or any(
            segment.startswith(".") for segment in real_folder.relative_to(real_root).parts
        ):
            raise _outside()

    def default_path(self, task_id: str, form: VideoFormat = _PLAIN) -> str:
        """Return the public path of a video whose client chose no name; unique for every task id."""
        # Each submit needs it, and joining three names takes a fraction of what paths do.
        above = f"{PUBLIC_ROOT}/{self.folder}" if self.folder else PUBLIC_ROOT
        # An id may start with a dot, a file name here may not. No id contains "~", so names are unique.
        mark = "~" if task_id.startswith(".") else ""
        return f"{above}/videos/{mark}{task_id}{form.suffix}"

    def public_path(self, place: SavePath) -> str:
        """Return the name of ``place`` in responses and in a task's row; the inverse of ``resolve``."""
        if place.root == self.output_root:
            return str(PUBLIC_ROOT / place.relative)
        return str(place.path)

    def place_of(self, public_path: str) -> SavePath | None:
        """Return the place that a task's row names, None if it is in none of the output folders any more."""
        try:
            return self.resolve(public_path, form=VideoFormat.of_file(public_path) or _PLAIN)
        except ServiceError:  # the output folders in the settings have changed since the submit
            return None

    def _below_the_folder(self, segments: list[str]) -> list[str]:
        if segments[0] == PUBLIC_ROOT and len(segments) > 1:
            segments = segments[1:]
            if segments[0] == self.folder and len(segments) > 1:
                segments = segments[1:]
        return [self.folder, *segments] if self.folder else segments

    def _below_a_root(self, name: str, field: str) -> tuple[Path, list[str]]:
        if not self.takes_absolute:
            raise _outside()
        path = PurePosixPath(os.sep, *_segments(name, field, hidden_allowed=True))
        # Innermost root first: a root inside another keeps its own rules.
        roots: Sequence[Path] = sorted(
            (self.output_root, *self.extra_roots), key=lambda root: len(root.parts), reverse=True
        )
        for root in roots:
            for prefix in (PurePosixPath(root), PurePosixPath(os.path.realpath(root))):
                if path != prefix and path.is_relative_to(prefix):
                    return root, _segments(str(path.relative_to(prefix)), field)
        raise _outside()


def _check_text(name: str, field: str) -> None:
    if not name.strip() or name.endswith("/"):
        raise InvalidField(field, f"{field} must end in a file name.")
    if "\\" in name or any(unicodedata.category(mark) in ("Cc", "Cs", "Zl", "Zp") for mark in name):
        raise InvalidField(field, f"{field} has a backslash or a control character.")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise InvalidField(field, f"{field} is longer than {MAX_NAME_BYTES} bytes.")


def _segments(name: str, field: str, *, hidden_allowed: bool = False) -> list[str]:
    segments = [segment for segment in name.split("/") if segment not in ("", ".")]
    if not segments:
        raise InvalidField(field, f"{field} must end in a file name.")
    if ".." in segments:
        raise _outside()
    if not hidden_allowed and any(segment.startswith(".") for segment in segments):
        raise PathForbidden("A saved video and its folders must not have names that start with a dot.")
    return segments


def _check_free(place: SavePath, field: str) -> None:
    """Raise ``InvalidField`` at the submit if the finished video could not be linked to ``place``."""
    if place.path.is_dir():
        raise InvalidField(field, f"{field} names a folder.")
    folder = place.path.parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise InvalidField(field, f"{field} names a file as if it were a folder.")


def _outside() -> PathForbidden:
    return PathForbidden("The path leads outside the folders that videos may be saved in.")
