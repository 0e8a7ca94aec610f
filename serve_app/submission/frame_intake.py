"""Reads, checks and stores the frames that a video is to begin and to end with."""

import asyncio
from dataclasses import dataclass

from serve_app.files.artifacts import LocalArtifacts
from serve_app.media.image_intake import ImageIntake
from serve_app.media.source_image import SourceImage
from serve_app.submission.field_words import FieldWords
from serve_app.submission.video_order import Picture, VideoOrder


@dataclass(frozen=True, slots=True)
class KeptFrames:
    """The keys of an order's stored frames, None for a frame that it has not, and notes for the client."""

    first_key: str | None
    last_key: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FrameIntake:
    """Takes in the frames of orders."""

    intake: ImageIntake
    artifacts: LocalArtifacts

    async def kept(
        self, order: VideoOrder, words: FieldWords, *, size: tuple[int, int], uid: str
    ) -> KeptFrames:
        """Store the frames of an order whose video has that width and height, in pixels.

        Raises ``ServiceError`` for a bad one, perhaps after the first is stored.
        """
        notes: list[str] = []
        keys: list[str | None] = []
        for picture, word, file_name in (
            (order.first_frame, words["first_frame"], "image.png"),
            (order.last_frame, words["last_frame"], "last_image.png"),
        ):
            if picture is None:
                keys.append(None)
                continue
            image = await self._read(picture, word)
            keys.append(await asyncio.to_thread(self._store, uid, file_name, image))
            note = image.crop_note(*size)
            if note:
                notes.append(f"The {note}.")
        first_key, last_key = keys
        return KeptFrames(first_key, last_key, tuple(notes))

    async def _read(self, picture: Picture, word: str) -> SourceImage:
        if isinstance(picture, bytes):
            return await asyncio.to_thread(self.intake.from_bytes, picture)
        return await self.intake.read(picture, word)

    def _store(self, uid: str, file_name: str, image: SourceImage) -> str:
        return self.artifacts.put_input(uid, file_name, image.to_png())
