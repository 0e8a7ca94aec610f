"""The frames that a video is to begin and to end with: read, checked and stored."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from serve_app.files.artifacts import Artifacts
from serve_app.media.image_intake import ImageIntake
from serve_app.media.source_image import SourceImage
from serve_app.submission.plan import Plan
from serve_app.submission.submission import Submission

_STORED: Mapping[str, tuple[str, str]] = {
    "image_path": ("image_key", "image.png"),
    "last_frame_path": ("last_image_key", "last_image.png"),
}
"""For each field: where a task's spec keeps the stored frame's key, and the file's name."""


@dataclass(frozen=True, slots=True)
class FrameIntake:
    """Takes in what a submission has of frames."""

    intake: ImageIntake
    artifacts: Artifacts

    async def kept(self, submission: Submission, planned: Plan, uid: str) -> Plan:
        """The plan with every frame of the submission stored. Raises ``ServiceError`` for a bad one."""
        for name, (key_field, file_name) in _STORED.items():
            if not submission.has(name):
                continue
            image = await self._read(submission, name)
            key = await asyncio.to_thread(self._store, uid, file_name, image)
            note = image.crop_note(planned.spec.width, planned.spec.height)
            keys: dict[str, Any] = {key_field: key}
            planned = replace(
                planned,
                spec=replace(planned.spec, **keys),
                notes=(*planned.notes, f"The {note}.") if note else planned.notes,
            )
        return planned

    async def _read(self, submission: Submission, name: str) -> SourceImage:
        if name in submission.uploads:
            return await asyncio.to_thread(self.intake.from_bytes, submission.uploads[name])
        text: str = getattr(submission.request, name)
        return await self.intake.read(text, name)

    def _store(self, uid: str, file_name: str, image: SourceImage) -> str:
        return self.artifacts.put_input(uid, file_name, image.to_png())
