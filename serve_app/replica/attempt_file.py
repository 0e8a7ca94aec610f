"""The video file of an attempt: ffmpeg starts and ends in another thread, in parallel with the engine."""

from concurrent.futures import Executor, Future
from pathlib import Path

from models.engine import Frames
from serve_app.files import durable
from serve_app.files.artifacts import LocalArtifacts
from serve_app.media.source_image import SourceImage
from serve_app.media.video_encoding import VideoEncoding
from serve_app.media.video_stills import StillKind, still_path
from serve_app.media.video_writer import VideoWriteError, VideoWriter
from serve_app.replica.task_comment import task_comment
from serve_app.tasks.task import Task


class AttemptFile:
    """The video file that an attempt writes: whole after ``complete``, absent after ``drop``."""

    def __init__(
        self, task: Task, artifacts: LocalArtifacts, encoding: VideoEncoding, variant: str | None
    ) -> None:
        """``variant``: that of the model, for the settings in the file; None: none are written."""
        self._task = task
        self._variant = variant
        self._artifacts = artifacts
        self._encoding = encoding
        self._opening: Future[VideoWriter] | None = None
        self._last: Frames | None = None

    def open(self, files: Executor) -> None:
        """Start ffmpeg in a thread of ``files``, without waiting for it."""
        self._opening = files.submit(self._open)

    def write(self, frames: Frames) -> None:
        """Append frames. Raises ``VideoWriteError``, also for an error of ``open``."""
        self._writer().write(frames)
        if self._encoding.output.return_last_frame and len(frames):
            self._last = frames[-1].copy()

    def complete(self) -> None:
        """Wait for ffmpeg and rename the file to its final name; then keep the last frame, if that is wanted.

        Raises ``VideoWriteError``.
        """
        self._writer().__exit__(None, None, None)
        if self._last is not None:
            try:
                durable.write(still_path(self._path, StillKind.LAST_FRAME), SourceImage(self._last).to_png())
            except OSError as error:
                raise VideoWriteError(f"The last frame could not be kept: {error.strerror}") from error

    def drop(self, error: BaseException) -> None:
        """Stop ffmpeg because of ``error`` and delete its output. Does nothing if ffmpeg did not start."""
        if self._opening is not None and self._opening.exception() is None:
            self._opening.result().__exit__(type(error), error, error.__traceback__)

    def _open(self) -> VideoWriter:
        spec, variant = self._task.spec, self._variant
        writer = VideoWriter(
            self._path,
            width=spec.width,
            height=spec.height,
            fps=spec.fps,
            encoding=self._encoding,
            comment=None if variant is None else task_comment(self._task, variant, self._artifacts),
        )
        return writer.__enter__()

    @property
    def _path(self) -> Path:
        form = self._encoding.output.format
        return self._artifacts.attempt_path(self._task.uid, self._task.attempt, form)

    def _writer(self) -> VideoWriter:
        assert self._opening is not None, "call open first"
        return self._opening.result()
