"""A video request as a form: its text fields, and the uploaded pictures and videos."""

from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import Request

from serve_app.api.http.form import read_form
from serve_app.api.http.request_model import RequestModel
from serve_app.api.native.video_request import VideoRequest
from serve_app.errors import InvalidField

UPLOADS = {
    "image_file": "image_path",
    "last_frame_file": "last_frame_path",
    "video_file": "video",
    "mask_file": "mask",
    "continue_from_file": "continue_from.video",
}
"""File fields of the form, each with the JSON field that holds the same file."""

UPLOAD_LISTS = {"reference_files": "reference_images"}
"""File fields that may be there several times, each with the JSON field that lists the same images."""


@dataclass(frozen=True, slots=True)
class VideoForm:
    """A form as it was sent."""

    fields: Mapping[str, str]
    named: Mapping[str, None]
    """The names of the text fields, as keys."""
    uploads: Mapping[str, bytes]
    """Files by the JSON field that each stands for, those of a list by ``field[0]``, ``field[1]`` …"""


async def read_video_form(
    request: Request,
    *,
    max_file_bytes: int,
    uploads: Mapping[str, str] = UPLOADS,
    model: type[RequestModel] = VideoRequest,
) -> VideoForm:
    """Read the form in a request, of these file fields and of the text fields of ``model``.

    Raises ``InvalidField`` or ``TooLarge``.
    """
    form = await read_form(
        request,
        files=uploads,
        lists=UPLOAD_LISTS,
        max_file_bytes=max_file_bytes,
        max_text_bytes=2 * max_file_bytes,
    )
    fields_of = {**uploads, **UPLOAD_LISTS}
    for name in fields_of.keys() & form.fields.keys():
        if form.fields[name]:
            raise InvalidField(name, f"{name}: must be an uploaded file; text goes in {fields_of[name]}.")
    for name in form.repeated & model.model_fields.keys():
        raise InvalidField(name, f"{name}: is there twice, with two values; send it once.")
    named = {name: None for name in form.fields if name not in fields_of}
    return VideoForm(form.fields, named, {_field(name, fields_of): data for name, data in form.files.items()})


def _field(upload: str, fields_of: Mapping[str, str]) -> str:
    """Return the JSON field that an upload stands for; an entry of a list stays one."""
    name, bracket, place = upload.partition("[")
    return fields_of[name] + bracket + place
