"""Request for a video in LightX2V's words and with its defaults, for old and new versions of its clients."""

from collections.abc import Mapping
from dataclasses import replace

from pydantic import Field

from serve_app.api.http.request_model import Text
from serve_app.api.http.video_fields import Seed, Unset
from serve_app.api.native.video_request import VideoRequest
from serve_app.errors import InvalidField
from serve_app.submission.video_order import Picture, VideoOrder

_SEED = 42


class LightX2VRequest(VideoRequest):
    """Request for a video as LightX2V's server takes it: with seed 42 unless one is sent."""

    seed: Seed = Field(default=_SEED, description="LightX2V's own default is 42; -1: drawn.", examples=[42])
    use_prompt_enhancer: bool = Field(
        default=False, description="LightX2V's word for `enhance_prompt`.", examples=[False]
    )
    task: Text | Unset = Field(
        default=None, description="t2v, i2v or flf2v: refused if the request is of another.", examples=["t2v"]
    )

    def order(
        self, *, uploads: Mapping[str, Picture], notes: tuple[str, ...], idempotency_key: str | None
    ) -> VideoOrder:
        """Return the order of this request; an empty text counts as not sent."""
        order = super().order(uploads=uploads, notes=notes, idempotency_key=idempotency_key)
        if self.task is not None and self.task != order.kind:
            raise InvalidField("task", f"task: the other fields ask for {order.kind}; leave it out.")
        # Of LightX2V's models only those for still images read it, so its clients send any.
        return replace(order, aspect=None, enhance_prompt=self.enhance_prompt or self.use_prompt_enhancer)
