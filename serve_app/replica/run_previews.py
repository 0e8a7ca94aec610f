"""Previews of a run while somebody looks: made between two steps, encoded in another thread."""

import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future

from models.engine import Engine, Frames, Generation
from models.errors import ModelError
from serve_app.errors import StoreUnavailable
from serve_app.files.artifacts import Artifacts
from serve_app.media.preview_pictures import still, strip
from serve_app.tasks.task import Task

_PERIOD_S = 1.0
_logger = logging.getLogger("ray.serve")


class RunPreviews:
    """Makes at most one preview a second, and none while ``is_wanted`` is False or the last one is encoded.

    The engine's thread calls the methods; any thread may set ``is_wanted``. A failure costs previews, not the
    run. ``clock``: returns seconds.
    """

    def __init__(
        self,
        engine: Engine,
        task: Task,
        artifacts: Artifacts,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._task = task
        self._artifacts = artifacts
        self._clock = clock
        self._due_at = -math.inf
        self._encoding: Future[None] | None = None
        self.is_wanted = False

    def stepped(self, run: Generation, files: Executor) -> None:
        """Make a preview of a run if one is due; ``files`` encodes and stores it. Raises ``EngineLost``."""
        is_free = self._encoding is None or self._encoding.done()
        if not (self.is_wanted and is_free and self._clock() >= self._due_at):
            return
        try:
            pictures = self._engine.preview(run)
        except ModelError:
            _logger.warning("task %s: there is no preview", self._task.uid, exc_info=True)
            pictures = None
        self._due_at = self._clock() + _PERIOD_S
        if pictures is not None:
            self._encoding = files.submit(self._store, pictures)

    def _store(self, pictures: Frames) -> None:
        task = self._task
        try:
            moving = strip(pictures, task.spec.num_frames / task.spec.fps)
            self._artifacts.put_preview(task.uid, task.attempt, still=still(pictures), strip=moving)
        except (OSError, StoreUnavailable):
            _logger.warning("task %s: a preview was not stored", task.uid, exc_info=True)
