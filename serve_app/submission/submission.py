"""A request that was read, and what came with it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from models.variants import Task as Kind
from serve_app.api.native.video_request import VideoRequest
from serve_app.errors import InvalidField

FRAME_FIELDS = ("image_path", "last_frame_path")
"""The fields that hold a frame of the video."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A checked request and what came with it."""

    request: VideoRequest
    uploads: Mapping[str, bytes] = field(default_factory=dict)
    """Uploaded frames as the client sent them, by the field that each stands for."""
    notes: tuple[str, ...] = ()
    """What the surface has to say, such as which fields it ignored."""
    echo: Mapping[str, Any] | None = None
    """The request as the surface shows it again; None: the fields that were sent."""
    idempotency_key: str | None = None
    save_field: str = "save_result_path"
    """What the surface calls the save path."""

    @property
    def kind(self) -> Kind:
        """What the given frames ask for. Raises ``InvalidField`` for a last frame without a first."""
        for name in FRAME_FIELDS:
            if name in self.uploads and self._text(name):
                raise InvalidField(name, f"{name}: an image was uploaded too; send only one.")
        if self.has("last_frame_path"):
            if not self.has("image_path"):
                raise InvalidField("last_frame_path", "last_frame_path: needs a first frame beside it.")
            return "flf2v"
        return "i2v" if self.has("image_path") else "t2v"

    def has(self, name: str) -> bool:
        """Whether that frame was sent, in whatever form."""
        return name in self.uploads or bool(self._text(name))

    def _text(self, name: str) -> str:
        text: str = getattr(self.request, name)
        return text
