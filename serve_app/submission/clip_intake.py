"""Reading and storing of a task's videos: one to change, its mask, and one to go on from."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from serve_app.errors import FileNotFound
from serve_app.files.artifacts import Artifacts
from serve_app.media import video_decoding
from serve_app.media.source_image import crop_note
from serve_app.media.source_video import SourceVideo
from serve_app.media.video_intake import VideoIntake
from serve_app.submission.continuation import SENT
from serve_app.submission.field_words import FieldWords
from serve_app.submission.video_order import KeptInput, OrderFault, Picture, SentVideo, VideoOrder
from serve_app.tasks.continuation import Continuation
from serve_app.tasks.task import TaskSpec

_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Clips:
    """An order's video, its mask, and a client's own video to go on from; None for what it has not."""

    video: SourceVideo | None
    mask: SourceVideo | None
    earlier: SourceVideo | None

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of the video in pixels, None without one."""
        return None if self.video is None else (self.video.width, self.video.height)


@dataclass(frozen=True, slots=True)
class KeptClips:
    """The keys of an order's stored videos, None without, and notes for the client."""

    video_key: str | None = None
    mask_key: str | None = None
    frames: int | None = None
    """Frames of the stored video, at the task's frame rate."""
    continues: Continuation | None = None
    """The stored end of the video to go on from."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ClipIntake:
    """Reader and store of the videos of orders; ffmpeg runs at most twice at once."""

    intake: VideoIntake
    artifacts: Artifacts
    _room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    async def read(self, order: VideoOrder, words: FieldWords) -> Clips:
        """Measure the videos of an order. Raises ``ServiceError`` for a bad one."""
        source = order.continue_from
        return Clips(
            await self._read(order.video, words["video"]),
            await self._read(order.mask, words["mask"]),
            await self._read(source.file, words[SENT]) if isinstance(source, SentVideo) else None,
        )

    async def keep(self, clips: Clips, spec: TaskSpec, *, uid: str) -> KeptClips:
        """Store the videos in the size, frame rate and length of ``spec``; its task is to have that uid.

        Raises ``TooLarge``, ``VideoUnreadable``, and ``OrderFault`` for too short a video to go on from.
        """
        if clips.earlier is not None:
            return await self._keep_end(clips.earlier, spec, uid)
        if clips.video is None:
            return KeptClips()
        video_key, frames = await self._store(uid, "video.mkv", _conform(clips.video, spec, is_mask=False))
        mask_key = None
        if clips.mask is not None:
            mask_key, _ = await self._store(uid, "mask.mkv", _conform(clips.mask, spec, is_mask=True))
        return KeptClips(video_key, mask_key, frames, notes=_crop_notes(clips.video, spec))

    async def _keep_end(self, video: SourceVideo, spec: TaskSpec, uid: str) -> KeptClips:
        assert spec.continues is not None
        tail = spec.continues.tail
        conform = partial(
            video_decoding.conform_end,
            video,
            width=spec.width,
            height=spec.height,
            fps=spec.fps,
            frames=tail,
            max_s=self.intake.max_s,
        )
        key, frames = await self._store(uid, "earlier.mkv", conform)
        if frames < tail:
            raise OrderFault(SENT, f"the model goes on from {tail} frames, and that video has {frames}.")
        going_on = replace(spec.continues, key=key, end=frames)
        return KeptClips(continues=going_on, notes=_crop_notes(video, spec))

    async def _read(self, source: Picture | None, word: str) -> SourceVideo | None:
        if source is None:
            return None
        if isinstance(source, str):
            return await self.intake.read(source, word)
        async with self._room:
            if isinstance(source, KeptInput):
                return await asyncio.to_thread(self._read_kept, source)
            return await asyncio.to_thread(self.intake.measured, source)

    def _read_kept(self, source: KeptInput) -> SourceVideo:
        try:
            return self.intake.kept(self.artifacts.input_path(source.key))
        except (FileNotFound, OSError):
            raise FileNotFound("A video that the video was made from is no longer kept.") from None

    async def _store(self, uid: str, name: str, conform: Callable[[Path], int]) -> tuple[str, int]:
        """Store the video that ``conform`` writes; return its key and its number of frames."""
        frames = 0

        def make(target: Path) -> None:
            nonlocal frames
            frames = conform(target)

        async with self._room:
            key = await asyncio.to_thread(self.artifacts.make_input, uid, name, make)
        return key, frames


def _conform(video: SourceVideo, spec: TaskSpec, *, is_mask: bool) -> Callable[[Path], int]:
    """Return what writes a video in the size, frame rate and length of ``spec``, and returns its frames."""
    return partial(
        video_decoding.conform,
        video,
        width=spec.width,
        height=spec.height,
        fps=spec.fps,
        frames=spec.num_frames,
        is_mask=is_mask,
    )


def _crop_notes(video: SourceVideo, spec: TaskSpec) -> tuple[str, ...]:
    cropped = crop_note((video.width, video.height), (spec.width, spec.height))
    return () if cropped is None else (f"The {cropped.replace('image', 'video', 1)}.",)
