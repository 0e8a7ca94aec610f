"""Decoding and storing of a task's pictures: its first and last frame, and its references."""

import asyncio
from dataclasses import dataclass

from serve_app.errors import FileNotFound
from serve_app.files.artifacts import Artifacts
from serve_app.media.image_intake import ImageIntake
from serve_app.media.kept_picture import KeptPicture
from serve_app.submission.field_words import FieldWords
from serve_app.submission.video_order import KeptInput, Picture, VideoOrder


@dataclass(frozen=True, slots=True)
class Frames:
    """An order's decoded pictures, None for a frame that it has not."""

    first: KeptPicture | None
    last: KeptPicture | None
    references: tuple[KeptPicture, ...]

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of the first frame in pixels, None without one."""
        return None if self.first is None else (self.first.width, self.first.height)


@dataclass(frozen=True, slots=True)
class KeptFrames:
    """The keys of an order's stored pictures, None for a frame that it has not, and notes for the client."""

    first_key: str | None
    last_key: str | None
    reference_keys: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FrameIntake:
    """Decoder and store of the pictures of orders."""

    intake: ImageIntake
    artifacts: Artifacts

    async def read(self, order: VideoOrder, words: FieldWords) -> Frames:
        """Decode the pictures of an order. Raises ``ServiceError`` for a bad one."""
        references = [
            await self._read_picture(picture, words[f"references[{place}]"])
            for place, picture in enumerate(order.references)
        ]
        return Frames(
            await self._read(order.first_frame, words["first_frame"]),
            await self._read(order.last_frame, words["last_frame"]),
            tuple(references),
        )

    async def keep(self, frames: Frames, *, size: tuple[int, int], uid: str) -> KeptFrames:
        """Store the pictures of a video of that width and height in pixels; its task is to have that uid."""
        first_key = await self._store(uid, "image.png", frames.first)
        last_key = await self._store(uid, "last_image.png", frames.last)
        found = (frames.first, frames.last)
        notes = [image.crop_note(*size) for image in found if image is not None]
        reference_keys = [
            await self._store_picture(uid, f"reference-{place}.png", image)
            for place, image in enumerate(frames.references)
        ]
        return KeptFrames(
            first_key, last_key, tuple(reference_keys), tuple(f"The {note}." for note in notes if note)
        )

    async def _read(self, picture: Picture | None, word: str) -> KeptPicture | None:
        return None if picture is None else await self._read_picture(picture, word)

    async def _read_picture(self, picture: Picture, word: str) -> KeptPicture:
        if isinstance(picture, KeptInput):
            return await asyncio.to_thread(self._read_kept, picture)
        return await self.intake.kept(picture, word)

    def _read_kept(self, picture: KeptInput) -> KeptPicture:
        try:
            return KeptPicture.from_png(self.artifacts.read_input(picture.key))
        except (FileNotFound, OSError):
            raise FileNotFound("A picture that the video was made from is no longer kept.") from None

    async def _store(self, uid: str, file_name: str, image: KeptPicture | None) -> str | None:
        return None if image is None else await self._store_picture(uid, file_name, image)

    async def _store_picture(self, uid: str, file_name: str, image: KeptPicture) -> str:
        return await asyncio.to_thread(lambda: self.artifacts.put_input(uid, file_name, image.png))
