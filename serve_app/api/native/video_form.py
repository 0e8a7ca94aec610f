"""A video request as a form: its text fields, and the uploaded pictures."""

from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import Request

from serve_app.api.http.form import read_form
from serve_app.api.native.video_request import VideoRequest
from serve_app.errors import InvalidField

UPLOADS = {"image_file": "image_path", "last_frame_file": "last_frame_path"}
"""File fields of the form, each with the JSON field that holds the same image."""


@dataclass(frozen=True, slots=True)
class VideoForm:
    """A form as it was sent."""

    fields: Mapping[str, str]
    uploads: Mapping[str, bytes]
    """Files by the JSON field that each stands for."""

    @property
    def named(self) -> Mapping[str, object]:
        """The names of the text fields, as keys."""
        return {name: None for name in self.fields if name not in UPLOADS}


async def read_video_form(request: Request, *, max_file_bytes: int) -> VideoForm:
    """Read the form in a request. Raises ``InvalidField`` or ``TooLarge``."""
    form = await read_form(
        request, files=UPLOADS, max_file_bytes=max_file_bytes, max_text_bytes=2 * max_file_bytes
    )
    for name in UPLOADS.keys() & form.fields.keys():
        if form.fields[name]:
            raise InvalidField(name, f"{name}: must be an uploaded file; text goes in {UPLOADS[name]}.")
    for name in form.repeated & VideoRequest.model_fields.keys():
        raise InvalidField(name, f"{name}: is there twice, with two values; send it once.")
    return VideoForm(form.fields, {UPLOADS[name]: data for name, data in form.files.items()})
