"""Reads, checks and stores the frames that a video is to begin and to end with."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from serve_app.files.artifacts import LocalArtifacts
from serve_app.media.image_intake import ImageIntake
from serve_app.media.source_image import SourceImage
from serve_app.submission.field_words import FieldWords
from serve_app.submission.plan import Plan
from serve_app.submission.video_order import Picture, VideoOrder

_STORED: Mapping[str, tuple[str, str]] = {
    "first_frame": ("image_key", "image.png"),
    "last_frame": ("last_image_key", "last_image.png"),
}
"""For each frame of an order: the spec's field for the stored frame's key, and the file's name."""


@dataclass(frozen=True, slots=True)
class FrameIntake:
    """Takes in the frames of orders."""

    intake: ImageIntake
    artifacts: LocalArtifacts

    async def kept(self, order: VideoOrder, words: FieldWords, planned: Plan, uid: str) -> Plan:
        """Store each frame of the order; return the plan with them. Raises ``ServiceError`` for a bad one."""
        for field, (key_field, file_name) in _STORED.items():
            picture: Picture | None = getattr(order, field)
            if picture is None:
                continue
            image = await self._read(picture, words[field])
            key = await asyncio.to_thread(self._store, uid, file_name, image)
            note = image.crop_note(planned.spec.width, planned.spec.height)
            keys: dict[str, Any] = {key_field: key}
            planned = replace(
                planned,
                spec=replace(planned.spec, **keys),
                notes=(*planned.notes, f"The {note}.") if note else planned.notes,
            )
        return planned

    async def _read(self, picture: Picture, word: str) -> SourceImage:
        if isinstance(picture, bytes):
            return await asyncio.to_thread(self.intake.from_bytes, picture)
        return await self.intake.read(picture, word)

    def _store(self, uid: str, file_name: str, image: SourceImage) -> str:
        return self.artifacts.put_input(uid, file_name, image.to_png())
