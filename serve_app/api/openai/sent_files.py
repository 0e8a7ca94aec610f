"""The pictures and videos of a request, under whichever names and in whichever forms they were sent."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from models.limits import MAX_REFERENCES
from serve_app.api.openai.spellings import VideoId
from serve_app.errors import InvalidField
from serve_app.media.video_decoding import is_video
from serve_app.submission.video_order import Picture

FIRST_FRAME = "input_reference"
FRAMES = "frame_images"
"""List of frames, each with the field that it is for."""

NAMES: Mapping[str, tuple[str, ...]] = {
    "first_frame": (FIRST_FRAME, "image_reference", "reference_url"),
    "last_frame": ("last_frame_path",),
    "references": ("input_references", "reference_images"),
    "video": ("video", "video_reference", "video_url"),
    "mask": ("mask",),
}
"""Fields of an order that hold files, each with the names that these are sent under."""

UPLOAD_LISTS = tuple(f"{name}{brackets}" for name in NAMES["references"] for brackets in ("", "[]"))
"""Names of a form that may have several files."""

UPLOADS = tuple(name for field, names in NAMES.items() if field != "references" for name in names)
"""Names of a form that may have one file."""


@dataclass(frozen=True, slots=True)
class SentFiles:
    """Files by the field of the order that they are for, and the name that each of these was sent under."""

    files: Mapping[str, tuple[Picture, ...]]
    words: Mapping[str, str]
    earlier_id: str | None
    """An earlier video in place of a file for ``video``."""

    @classmethod
    def of(cls, texts: Mapping[str, object], uploads: Mapping[str, bytes]) -> "SentFiles":
        """Sort the files among the fields of a request, and those of its form.

        ``uploads``: by name, those of a list as ``name[0]``, ``name[1]`` and so on. Raises ``InvalidField``
        where one field of the order is sent twice.
        """
        found: dict[str, tuple[str, Sequence[object]]] = {}
        for field, name, values in _named(texts, uploads):
            if name == FIRST_FRAME and _shows_video(values[0]):
                field = "video"
            if field in found:
                other = found[field][0]
                clash = "a file was uploaded too" if other == name else f"{other} was sent too"
                raise InvalidField(name, f"{name}: {clash}; send only one of them.")
            if len(values) > MAX_REFERENCES:
                raise InvalidField(name, f"{name}: must be at most {MAX_REFERENCES} pictures.")
            found[field] = (name, values)
        video_ids = [value.id for value in found.get("video", ("", ()))[1] if isinstance(value, VideoId)]
        return cls(
            {
                field: tuple(value for value in values if isinstance(value, bytes | str))
                for field, (_, values) in found.items()
            },
            {field: found[field][0] if field in found else names[0] for field, names in NAMES.items()},
            video_ids[0] if video_ids else None,
        )

    def with_video(self, video: bytes) -> "SentFiles":
        """Return the files with that video to change."""
        return replace(self, files={**self.files, "video": (video,)})

    def one(self, field: str) -> Picture | None:
        """Return the only file of a field, None without one."""
        return next(iter(self.several(field)), None)

    def several(self, field: str) -> tuple[Picture, ...]:
        """Return the files of a field."""
        return self.files.get(field, ())


def _named(
    texts: Mapping[str, object], uploads: Mapping[str, bytes]
) -> Iterator[tuple[str, str, Sequence[object]]]:
    """Yield each name that files were sent under, with their field and the files; texts and uploads apart."""
    for field, name in ((field, name) for field, names in NAMES.items() for name in names):
        value = texts.get(name)
        if value:
            yield field, name, value if isinstance(value, list) else [value]
        uploaded = [data for part, data in uploads.items() if part.partition("[")[0] == name]
        if uploaded:
            yield field, name, uploaded
    frames: Any = texts.get(FRAMES) or ()
    for place, frame in enumerate(frames):
        yield frame.frame_type, f"{FRAMES}[{place}].image_url", [frame.image_url]


def _shows_video(file: object) -> bool:
    """Whether a file that may be a picture or a video is a video: vLLM-Omni takes either in one field."""
    if isinstance(file, bytes):
        return is_video(file)
    return isinstance(file, str) and file[:11].lower() == "data:video/"
