"""The earlier video that a run goes on from: the frames that are kept, and those that it begins with."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.engine import Frames
from models.pixel_format import PixelFormat
from serve_app.errors import FileNotFound
from serve_app.files.artifacts import Artifacts
from serve_app.media.video_decoding import read_clip
from serve_app.media.video_reading import VideoReadError, read_video
from serve_app.tasks.continuation import Continuation
from serve_app.tasks.task import TaskSpec


@dataclass(frozen=True, slots=True)
class EarlierVideo:
    """A task's copy of the earlier video."""

    going_on: Continuation
    path: Path
    width: int
    height: int

    @classmethod
    def of(cls, spec: TaskSpec, artifacts: Artifacts) -> "EarlierVideo | None":
        """Return that of a task, None for a task without one. Raises ``VideoReadError`` if it is gone."""
        # A coordinator of the version before sends a task without the field.
        going_on: Continuation | None = getattr(spec, "continues", None)
        if going_on is None:
            return None
        try:
            return cls(going_on, artifacts.input_path(going_on.key), spec.width, spec.height)
        except FileNotFound:
            raise VideoReadError("the earlier video is gone") from None

    def kept(self, pixel_format: PixelFormat) -> Iterator[Frames]:
        """Yield the frames that the new video begins with. Raises ``VideoReadError``."""
        return self._read(0, self.going_on.kept_frames, pixel_format)

    def tail(self) -> Frames:
        """Return the frames that the first fragment begins with. Raises ``VideoReadError``."""
        end = self.going_on.end
        if self.path.suffix == ".mkv":  # the end of a client's own video, as the service stored it
            try:
                return read_clip(self.path, (end, self.height, self.width), is_mask=False)[
                    -self.going_on.tail :
                ]
            except RuntimeError as error:
                raise VideoReadError(str(error)) from None
        return np.concatenate(list(self._read(end - self.going_on.tail, end, PixelFormat.RGB24)))

    def _read(self, begin: int, end: int, pixel_format: PixelFormat) -> Iterator[Frames]:
        return read_video(
            self.path, begin, end, width=self.width, height=self.height, pixel_format=pixel_format
        )
