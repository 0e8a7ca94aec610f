"""The video file of an attempt: ffmpeg starts and ends in another thread, in parallel with the engine."""

from concurrent.futures import Executor, Future

from models.engine import Frames
from serve_app.errors import FileNotFound
from serve_app.files.artifacts import Artifacts
from serve_app.media.source_image import SourceImage
from serve_app.media.video_encoding import VideoEncoding
from serve_app.media.video_stills import StillKind, still_key
from serve_app.media.video_writer import VideoWriteError, VideoWriter, of_system
from serve_app.replica.persistence import Persistence
from serve_app.replica.task_comment import task_comment
from serve_app.tasks.task import Task


class AttemptFile:
    """The video file that an attempt writes: whole after ``complete``, absent after ``drop``."""

    def __init__(
        self,
        task: Task,
        artifacts: Artifacts,
        persistence: Persistence,
        encoding: VideoEncoding,
        variant: str | None,
    ) -> None:
        """``variant``: that of the model, for the settings in the file; None: none are written."""
        self._persistence = persistence
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
        """Append frames. Raises ``VideoWriteError``, also for an error of ``open``, and ``ChildKilled``."""
        self._writer().write(frames)
        if self._encoding.output.return_last_frame and len(frames):
            self._last = frames[-1].copy()

    def complete(self) -> None:
        """Wait for ffmpeg, then store the file, and the last frame if that is wanted, for all nodes.

        Raises ``VideoWriteError``, ``ChildKilled``, ``StoreUnavailable``.
        """
        self._writer().__exit__(None, None, None)
        try:
            self._persistence.ask(self._store)
        except OSError as error:
            raise of_system("The video could not be stored", error) from error
        except FileNotFound as error:
            raise VideoWriteError(f"The video could not be stored: {error}") from error

    def _store(self) -> None:
        uid, attempt, form = self._task.uid, self._task.attempt, self._encoding.output.format
        if self._last is not None:
            key = still_key(self._artifacts.key(uid, attempt, form), StillKind.LAST_FRAME)
            self._artifacts.put_still(key, SourceImage(self._last).to_png())
        self._artifacts.store_attempt(uid, attempt, form)

    def drop(self, error: BaseException) -> None:
        """Stop ffmpeg because of ``error`` and delete its output. Does nothing if ffmpeg did not start."""
        if self._opening is not None and self._opening.exception() is None:
            self._opening.result().__exit__(type(error), error, error.__traceback__)

    def _open(self) -> VideoWriter:
        spec = self._task.spec
        writer = VideoWriter(
            self._artifacts.attempt_path(self._task.uid, self._task.attempt, self._encoding.output.format),
            width=spec.width,
            height=spec.height,
            fps=spec.fps,
            encoding=self._encoding,
            comment=self._persistence.ask(self._comment),
        )
        return writer.__enter__()

    def _comment(self) -> str | None:
        return None if self._variant is None else task_comment(self._task, self._variant, self._artifacts)

    def _writer(self) -> VideoWriter:
        assert self._opening is not None, "call open first"
        return self._opening.result()
