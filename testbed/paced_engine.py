"""An engine that takes a set time and makes plain frames, for tests of everything around a model.

It keeps the engine contract (the same suite runs on it and on the real engine), starts without torch, and
fails on command: a prompt that contains ``[[prepare-error]]``, ``[[raise]]``, ``[[oom]]`` or ``[[crash]]``. A
prompt with ``[[hold:NAME]]`` holds each step until the file ``NAME`` is in the folder of the option
``releases``, with ``[[hold:NAME@STEP]]`` that step alone; with ``[[pace:NAME]]`` steps take no time once that
file is there. A prompt with ``[[lost:NAME]]`` loses its device at a step, and one with ``[[raise:NAME]]``
fails there, but once: the step leaves the file ``NAME`` there, and where that is, nothing happens. A run of
one with ``[[note]]`` has a note. As one rank of a group the engine meets the others at each step; what the
other commands ask for happens on the last rank alone.
"""

import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.engine import (
    EngineSettings,
    Frames,
    Generation,
    GenerationRequest,
    PendingSnapshot,
    Snapshot,
)
from models.errors import DeviceLost, InvalidRequest, ModelError, OutOfMemory
from models.lora_uses import check_uses
from models.phase import OnPhase, Phase, untold
from models.pixel_format import PixelFormat
from models.variants import VARIANTS

DEFAULT_STEP_S = 0.05
FRAMES_PER_CHUNK = 4
PREVIEW_STRIDE = VARIANTS["demo"].spatial_stride
_HOLD = re.compile(r"\[\[hold:(\w+)(?:@(\d+))?\]\]")
_LOST = re.compile(r"\[\[lost:(\w+)\]\]")
_RAISE_ONCE = re.compile(r"\[\[raise:(\w+)\]\]")
_PACE = re.compile(r"\[\[pace:(\w+)\]\]")
_HOLD_POLL_S = 0.02
OVERLAP = 1
"""Frames that two fragments share, as for a model that takes a first frame."""

NOTE = "The prompt was not read."


@dataclass(slots=True)
class PacedGeneration:
    """The state of one run: the fragment, its steps, whether its frames were handed out."""

    request: GenerationRequest
    fragment: int = 0
    step: int = 0
    decoded: bool = False
    is_cut: bool = False
    notes: tuple[str, ...] = ()

    @property
    def total_steps(self) -> int:
        """The denoise steps of each fragment, or those done when it was cut short."""
        return self.step if self.is_cut else self.request.steps


class PacedEngine:
    """An engine whose denoise steps take ``step_s`` seconds each, and a whole decode ``decode_s``.

    With ``trace`` it appends a line to that file when a run begins and when its last frame is handed out:
    ``begin`` or ``end`` and the seconds of the system's monotonic clock. With ``steps`` it appends the
    process, the number of each step that is done, and the seed to that file.
    """

    def __init__(
        self,
        step_s: float = DEFAULT_STEP_S,
        decode_s: float = 0.0,
        trace: Path | None = None,
        mesh: Any = None,
        releases: Path | None = None,
        steps: Path | None = None,
    ) -> None:
        self.evictions: Mapping[str, int] = {"lora": 0}
        """None: nothing is cached."""
        self._step_s = step_s
        self._decode_s = decode_s
        self._trace = trace
        self._mesh = mesh
        self._releases = releases
        self._steps = steps
        self._rank = 0 if mesh is None else mesh.rank
        self._last_rank = 0 if mesh is None else mesh.plan.devices - 1

    def prepare(
        self, request: GenerationRequest, after: Generation | None = None, on_phase: OnPhase = untold
    ) -> PacedGeneration:
        """Begin a run of the request, or of its next fragment. Raises ``InvalidRequest`` on command, and for
        LoRAs that no engine takes.
        """
        on_phase(Phase.ENCODING_TEXT)
        if after is not None:
            return _next(_own(after), request)
        check_uses(request.loras, two_experts=True)
        self._note("begin")
        if "[[prepare-error]]" in request.prompt:
            raise InvalidRequest("The prompt asks for an error.", field="prompt")
        noted = "[[note]]" in request.prompt and self._rank == 0
        return PacedGeneration(request, notes=(NOTE,) if noted else ())

    def denoise_step(self, generation: Generation) -> None:
        """Take one step of ``step_s`` seconds. Raises ``ModelError``, ``OutOfMemory`` and ``DeviceLost`` on
        command.
        """
        run = _own(generation)
        if run.step == run.total_steps:
            raise ModelError(f"All {run.total_steps} steps of this run are done.")
        with nullcontext() if self._mesh is None else self._mesh.lockstep():
            if self._rank == self._last_rank:
                self._fail_on_command(run.request.prompt)
                self._fail_once_on_command(run.request.prompt)
                self._hold_on_command(run)
                pace = self._file_named(run.request.prompt, _PACE)
                if pace is None or not pace.exists():
                    time.sleep(self._step_s)
            self._agree(leave=False)
        run.step += 1
        if self._steps is not None and self._rank == 0:
            with self._steps.open("a") as file:
                file.write(f"{os.getpid()} {run.step} {run.request.seed}\n")

    def cut_short(self, generation: Generation) -> None:
        """End the steps here. Raises ``ModelError`` before the first."""
        run = _own(generation)
        if run.step == 0:
            raise ModelError("A run of which no step is done has nothing to show.")
        run.is_cut = run.step < run.total_steps

    def snapshot(self, generation: Generation) -> PendingSnapshot | None:
        """Return what there is of the run: the steps done. None for a run that was cut short."""
        run = _own(generation)
        if run.is_cut:
            return None
        snapshot = Snapshot(run.fragment, run.step, {"steps": np.array([run.request.steps])})
        return lambda: snapshot

    def restore(self, generation: Generation, snapshot: Snapshot) -> None:
        """Put a prepared run where the snapshot is. Raises ``ModelError`` for one of another run."""
        run = _own(generation)
        steps = snapshot.arrays.get("steps")
        if (snapshot.fragment, run.step) != (run.fragment, 0) or steps is None or steps[0] != run.total_steps:
            raise ModelError("The snapshot is not of this run.")
        run.step = snapshot.step

    def decode(
        self, generation: Generation, pixel_format: PixelFormat = PixelFormat.RGB24
    ) -> Iterator[Frames]:
        """Yield frames of the one colour that the seed chooses, with a column that moves.

        As YUV they are gray, as bright as that colour's mean.
        """
        run = _own(generation)
        if run.step < run.total_steps:
            raise ModelError(f"Only {run.step} of {run.total_steps} steps of this run are done.")
        return (_in_format(frames, pixel_format) for frames in self._frames(run))

    def preview(self, generation: Generation) -> Frames:
        """Return one small frame of the video's colour."""
        request = _own(generation).request
        size = request.height // PREVIEW_STRIDE, request.width // PREVIEW_STRIDE
        return np.broadcast_to(_colour(request), (1, *size, 3)).copy()

    def _frames(self, run: PacedGeneration) -> Iterator[Frames]:
        request = run.request
        colour = _colour(request)
        goes_on = run.fragment > 0 or request.tail is not None
        for start in range(OVERLAP if goes_on else 0, request.num_frames, FRAMES_PER_CHUNK):
            count = min(FRAMES_PER_CHUNK, request.num_frames - start)
            time.sleep(self._decode_s * count / request.num_frames)
            frames = np.empty((count, request.height, request.width, 3), dtype=np.uint8)
            frames[:] = colour
            for index in range(count):  # a column that moves, so that no two neighbouring frames are equal
                frames[index, :, (start + index) % request.width] = 255 - colour
            if self._rank == 0:
                try:
                    yield frames
                except GeneratorExit:
                    self._agree(leave=True)
                    raise
            if self._agree(leave=False):
                return
        run.decoded = True
        if run.fragment + 1 == request.num_fragments:
            self._note("end")

    def _agree(self, leave: bool) -> bool:
        return leave if self._mesh is None else bool(self._mesh.agree(leave))

    def _note(self, what: str) -> None:
        if self._trace is not None and self._rank == 0:
            with self._trace.open("a") as file:
                file.write(f"{what} {time.monotonic()}\n")

    def _fail_on_command(self, prompt: str) -> None:
        if "[[raise]]" in prompt:
            raise ModelError("The prompt asks for a failure.")
        if "[[oom]]" in prompt:
            raise OutOfMemory("The prompt asks for more memory than there is.")
        if "[[crash]]" in prompt:
            os.kill(os.getpid(), signal.SIGKILL)

    def _hold_on_command(self, run: PacedGeneration) -> None:
        held = _HOLD.search(run.request.prompt)
        if held is not None and held[2] is not None and int(held[2]) != run.step:
            return
        release = self._file_named(run.request.prompt, _HOLD)
        while release is not None and not release.exists():
            time.sleep(_HOLD_POLL_S)

    def _fail_once_on_command(self, prompt: str) -> None:
        if self._is_first(prompt, _LOST):
            raise DeviceLost("The prompt asks for the loss of the device.")
        if self._is_first(prompt, _RAISE_ONCE):
            raise ModelError("The prompt asks for one failure.")

    def _is_first(self, prompt: str, mark: re.Pattern[str]) -> bool:
        """Return whether the prompt has the mark and the file that it names is not there yet; make it."""
        file = self._file_named(prompt, mark)
        if file is None or file.exists():
            return False
        file.touch()
        return True

    def _file_named(self, prompt: str, mark: re.Pattern[str]) -> Path | None:
        """Return the file in ``releases`` that the mark in the prompt names; None without the mark."""
        found = mark.search(prompt)
        if found is None:
            return None
        if self._releases is None:
            raise ModelError("The prompt names a file, and the option releases names no folder.")
        return self._releases / found[1]


def load_engine(settings: EngineSettings, mesh: Any = None) -> PacedEngine:
    """Make a paced engine, with no weights; ``mesh`` is the ``models.parallel.mesh.Mesh`` of a rank.

    Options: ``step_s`` and ``decode_s`` in seconds; ``trace`` and ``steps``, files; ``releases``, a folder.
    The option ``gate`` delays the load until that file is there.
    """
    gate = _path(settings, "gate")
    while gate is not None and not gate.exists():
        time.sleep(_HOLD_POLL_S)
    return PacedEngine(
        step_s=_seconds(settings, "step_s", DEFAULT_STEP_S),
        decode_s=_seconds(settings, "decode_s", 0.0),
        trace=_path(settings, "trace"),
        mesh=mesh,
        releases=_path(settings, "releases"),
        steps=_path(settings, "steps"),
    )


def _path(settings: EngineSettings, option: str) -> Path | None:
    value = settings.options.get(option)
    return None if value is None else Path(str(value))


def _seconds(settings: EngineSettings, option: str, default: float) -> float:
    value = settings.options.get(option, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ValueError(f"option {option} must be seconds, at least 0, not {value!r}")
    return float(value)


def _next(before: PacedGeneration, request: GenerationRequest) -> PacedGeneration:
    if not before.decoded:
        raise ModelError("The fragment before this one is not decoded to its end.")
    if before.fragment + 1 >= request.num_fragments:
        raise ModelError(f"All {request.num_fragments} fragments of this request are made.")
    return PacedGeneration(request, before.fragment + 1, notes=before.notes)


def _colour(request: GenerationRequest) -> Frames:
    return np.random.default_rng(request.seed % 2**64).integers(0, 256, size=3, dtype=np.uint8)


def _in_format(frames: Frames, pixel_format: PixelFormat) -> Frames:
    if pixel_format is PixelFormat.RGB24:
        return frames
    count, height, width, _ = frames.shape
    gray = np.full((count, *pixel_format.frame_shape(width, height)), 128, dtype=np.uint8)
    gray[:, :height] = frames.mean(axis=-1)
    return gray


def _own(generation: Generation) -> PacedGeneration:
    if not isinstance(generation, PacedGeneration):
        raise ModelError("This run was prepared by another engine.")
    return generation
