"""Requests for a video that is made of another one: its edit and its extension."""

from collections.abc import Mapping
from dataclasses import replace

from pydantic import ConfigDict, Field

from serve_app.api.openai.create_request import CreateRequest
from serve_app.api.openai.sent_files import SentFiles
from serve_app.api.openai.spellings import Video
from serve_app.errors import InvalidField
from serve_app.submission.continuation import whole_fragments
from serve_app.submission.field_words import FieldWords
from serve_app.submission.video_order import EarlierVideo, VideoOrder
from serve_app.tasks.task import Task


class EditRequest(CreateRequest):
    """Request for another version of a video: everything changes, guided by it, or what `mask` says."""

    model_config = ConfigDict(json_schema_extra={"required": ["prompt", "video"]})

    video: Video = Field(
        default=None,
        description='The video to change: `{"id": …}` of an earlier one, a file, base64 or a URL; for a '
        "model that takes one.",
        examples=[{"id": "beach-1"}],
    )

    def files(self, uploads: Mapping[str, bytes]) -> SentFiles:
        """Return the pictures and videos of this request. Raises ``InvalidField`` without a video."""
        files = super().files(uploads)
        if files.earlier_id is None and files.one("video") is None:
            raise InvalidField("video", "video: is required.")
        return files


class ExtensionRequest(CreateRequest):
    """Request for a video with more at its end; `seconds` and `num_fragments` are of what is added."""

    model_config = ConfigDict(json_schema_extra={"required": ["prompt", "video"]})

    video: Video = Field(
        default=None,
        description='The video to go on from: `{"id": …}` of a finished one of yours.',
        examples=[{"id": "beach-1"}],
    )

    def files(self, uploads: Mapping[str, bytes]) -> SentFiles:
        """Return the pictures of this request. Raises ``InvalidField`` without the id of a video."""
        files = super().files(uploads)
        word = files.words["video"]
        if files.earlier_id is None:
            raise InvalidField(word, f'{word}: must be {{"id": …}} of a finished video of yours.')
        if self.continue_from is not None:
            raise InvalidField("continue_from", f"continue_from: {word} says it; send only one of them.")
        return files

    def words(self, files: SentFiles) -> FieldWords:
        """Return the field names of this request."""
        return super().words(files).but(continue_from=files.words["video"])

    def order(
        self, files: SentFiles, *, notes: tuple[str, ...], idempotency_key: str | None, source: Task | None
    ) -> VideoOrder:
        """Return the order of the whole video of ``source`` and what this request adds to it."""
        order = super().order(files, notes=notes, idempotency_key=idempotency_key, source=source)
        if source is None:
            return order
        kept = whole_fragments(source)
        added = order.num_fragments or len(order.fragment_prompts) or 1
        return replace(order, continue_from=EarlierVideo(source.id, kept or None), num_fragments=kept + added)
