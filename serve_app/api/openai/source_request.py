"""Requests for a video that is made of another one: its edit and its extension."""

from collections.abc import Mapping
from dataclasses import replace

from pydantic import ConfigDict, Field

from serve_app.api.openai.create_request import CreateRequest
from serve_app.api.openai.sent_files import SentFiles
from serve_app.api.openai.spellings import Video
from serve_app.errors import InvalidField
from serve_app.submission.continuation import SENT, whole_fragments
from serve_app.submission.field_words import FieldWords
from serve_app.submission.video_order import EarlierVideo, SentVideo, VideoOrder
from serve_app.tasks.task import Task

_ONLY_NEW = "The video that was sent is not part of the new one, which goes on from its end."


class SourceRequest(CreateRequest):
    """Request that needs another video."""

    model_config = ConfigDict(json_schema_extra={"required": ["prompt", "video"]})

    def files(self, uploads: Mapping[str, bytes]) -> SentFiles:
        """Return the pictures and videos of this request. Raises ``InvalidField`` without a video."""
        files = super().files(uploads)
        if files.earlier_id is None and files.one("video") is None:
            raise InvalidField("video", "video: is required.")
        return files


class EditRequest(SourceRequest):
    """Request for another version of a video: everything changes, guided by it, or what `mask` says."""

    video: Video = Field(
        default=None,
        description='The video to change: `{"id": …}` of an earlier one, a file, base64 or a URL; for a '
        "model that takes one.",
        examples=[{"id": "beach-1"}],
    )


class ExtensionRequest(SourceRequest):
    """Request for a video with more at its end; `seconds` and `num_fragments` are of what is added."""

    video: Video = Field(
        default=None,
        description='The video to go on from: `{"id": …}` of a finished one of yours, which the new one '
        "begins with, or a file, base64 or a URL, of which only what follows is made.",
        examples=[{"id": "beach-1"}],
    )

    def words(self, files: SentFiles) -> FieldWords:
        """Return the field names of this request."""
        word = files.words["video"]
        return super().words(files).but(continue_from=word, **{SENT: word})

    def order(
        self, files: SentFiles, *, notes: tuple[str, ...], idempotency_key: str | None, source: Task | None
    ) -> VideoOrder:
        """Return the order of what this request adds to a video, and of the whole of an earlier one."""
        if self.continue_from is not None:
            word = files.words["video"]
            raise InvalidField("continue_from", f"continue_from: {word} says it; send only one of them.")
        order = super().order(files, notes=notes, idempotency_key=idempotency_key, source=source)
        if source is None:
            file = files.one("video") or ""
            return replace(order, video=None, continue_from=SentVideo(file), notes=(*order.notes, _ONLY_NEW))
        kept = whole_fragments(source)
        added = order.num_fragments or len(order.fragment_prompts) or 1
        return replace(order, continue_from=EarlierVideo(source.id, kept or None), num_fragments=kept + added)
