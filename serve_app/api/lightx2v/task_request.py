"""Request for a video in LightX2V's words and with its defaults, for old and new versions of its clients."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

from pydantic import BeforeValidator, Field

from serve_app.api.http.request_model import Text
from serve_app.api.http.video_fields import Pictures, Seed, Unset, without_default
from serve_app.api.native.video_request import VideoRequest
from serve_app.errors import InvalidField
from serve_app.submission.field_words import FieldWords
from serve_app.submission.video_order import OrderFault, Picture, VideoOrder

_SEED = 42

OWN_WORDS: Mapping[str, tuple[str, ...]] = {
    "enhance_prompt": ("use_prompt_enhancer",),
    "reference_images": ("src_ref_images", "ref_image_paths"),
    "video": ("src_video",),
    "mask": ("src_mask",),
}
"""LightX2V's names of native fields, which are read beside the native ones."""

_ORDER_FIELDS = {"reference_images": "references", "video": "video", "mask": "mask"}
"""Native fields of files, each with the field of the order that it becomes."""

_COMMA = re.compile(r"(?<!;base64),")
"""What lies between two files of a text; a ``data:`` URL has a comma of its own."""


def _checked_paths(value: object) -> object:
    """Read a list of pictures, also as text with commas between them."""
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return [text.strip() for text in _COMMA.split(value)]
    return value


Paths = Annotated[Pictures, BeforeValidator(_checked_paths)]
"""Pictures as text, or as one text with commas between them."""


class LightX2VRequest(VideoRequest):
    """Request for a video as LightX2V's server takes it: with seed 42 unless one is sent."""

    seed: Seed = Field(default=_SEED, description="LightX2V's own default is 42; -1: drawn.", examples=[42])
    use_prompt_enhancer: bool = Field(
        default=False, description="LightX2V's word for `enhance_prompt`.", examples=[False]
    )
    src_ref_images: Paths = Field(
        default=None,
        description="LightX2V's word for `reference_images`; as text with commas between them, too.",
        examples=[[]],
        json_schema_extra=without_default,
    )
    ref_image_paths: Paths = Field(
        default=None,
        description="The same.",
        examples=[[]],
        json_schema_extra=without_default,
    )
    src_video: Text = Field(default="", description="LightX2V's word for `video`.", examples=[""])
    src_mask: Text = Field(default="", description="LightX2V's word for `mask`.", examples=[""])
    task: Text | Unset = Field(
        default=None,
        description="t2v, i2v, flf2v or vace: refused if the request is of another.",
        examples=["t2v"],
    )

    def words(self) -> FieldWords:
        """Return the field names of this request."""
        spelt = {field: self._word(native) for native, field in _ORDER_FIELDS.items()}
        return super().words().but(**spelt)

    def order(
        self, *, uploads: Mapping[str, Picture], notes: tuple[str, ...], idempotency_key: str | None
    ) -> VideoOrder:
        """Return the order of this request; an empty text counts as not sent."""
        files = {native: self._file(native, uploads) for native in _ORDER_FIELDS}
        native = self.model_copy(update={name: file for name, file in files.items() if file})
        order = VideoRequest.order(native, uploads=uploads, notes=notes, idempotency_key=idempotency_key)
        self._check_task(order)
        return replace(
            order,
            # Of LightX2V's models only those for still images read it, so its clients send any.
            aspect=None,
            enhance_prompt=self.enhance_prompt or self.use_prompt_enhancer,
            sent=self.model_dump(exclude_unset=True),
        )

    def _word(self, native: str) -> str:
        return next((word for word in (native, *OWN_WORDS[native]) if getattr(self, word)), native)

    def _file(self, native: str, uploads: Mapping[str, Picture]) -> object:
        """Return what a field of files holds, under whichever name. Raises ``InvalidField`` for two."""
        sent = [word for word in (native, *OWN_WORDS[native]) if getattr(self, word)]
        if len(sent) + any(name.partition("[")[0] == native for name in uploads) > 1:
            raise InvalidField(sent[-1], f"{sent[-1]}: another one was sent too; send only one of them.")
        return getattr(self, sent[0]) if sent else None

    def _check_task(self, order: VideoOrder) -> None:
        if self.task is None or (self.task == "vace" and (order.references or order.video is not None)):
            return
        try:
            kind = order.kind
        except OrderFault as fault:
            raise self.words().refusal(fault) from None
        if self.task != kind:
            raise InvalidField("task", f"task: the other fields ask for {kind}; leave it out.")
