"""The settings that a video was made with, as they stand in its file: a JSON object in its comment."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from types import MappingProxyType
from typing import Any

from models.video_spec import VideoSpec
from serve_app.media.file_comment import comment_of
from serve_app.media.source_image import SourceImage
from serve_app.package_version import package_version
from serve_app.tasks.video_output import PLAIN, VideoOutput

_TITLE = "wan_serve"
_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "prompt": "prompt",
        "negative_prompt": "negative_prompt",
        "seed": "seed",
        "infer_steps": "steps",
        "guidance_scale": "guidance_scale",
        "guidance_scale_2": "guidance_scale_2",
        "flow_shift": "flow_shift",
        "width": "width",
        "height": "height",
        "num_frames": "num_frames",
        "num_fragments": "num_fragments",
        "fps": "fps",
    }
)
"""Fields of a request, each with the field of the spec that it decides."""

_REQUESTED = frozenset(
    {
        *_FIELDS,
        "model",
        "loras",
        "control_scale",
        "fragment_prompts",
        *(field.name for field in fields(VideoOutput)),
    }
)
GOES_ON = "goes_on"
"""Entry of the settings of a video that goes on from an earlier one."""

_FRAMES = ("image_sha256", "last_image_sha256")
_REFERENCES = "reference_sha256"
_CLIPS = ("video_sha256", "mask_sha256")
_MORE = frozenset({*_FRAMES, _REFERENCES, *_CLIPS, GOES_ON})


def request_fields(
    spec: VideoSpec, model: str, output: VideoOutput = PLAIN, fragment_prompts: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the request that asks for this very video, without its pictures, as a JSON object."""
    values = {name: getattr(spec, field) for name, field in _FIELDS.items()}
    values["num_fragments"] = getattr(spec, "all_fragments", spec.num_fragments)
    loras = [
        {name: value for name, value in asdict(lora).items() if value is not None} for lora in spec.loras
    ]
    chosen = {name: value for name, value in asdict(output).items() if value != getattr(PLAIN, name)}
    scale = getattr(spec, "control_scale", 1.0)
    chosen |= {} if scale == 1.0 else {"control_scale": scale}
    found = {"model": model, **values, "loras": loras, "fragment_prompts": list(fragment_prompts), **chosen}
    return {name: value for name, value in found.items() if value is not None and value != []}


def settings_comment(
    spec: VideoSpec,
    *,
    model: str,
    variant: str,
    image: SourceImage | None = None,
    last_image: SourceImage | None = None,
    output: VideoOutput = PLAIN,
    fragment_prompts: Sequence[str] = (),
    references: Sequence[SourceImage] = (),
    goes_on: bool = False,
    video: bytes | None = None,
    mask: bytes | None = None,
) -> str:
    """Return the comment of a video's file: its request, what made it, and hashes of its pictures.

    ``goes_on``: whether it goes on from an earlier video, so that its request alone does not make it.
    ``video`` and ``mask``: the stored files.
    """
    hashes: dict[str, str | list[str]] = {
        name: _hash(picture)
        for name, picture in zip(_FRAMES, (image, last_image), strict=True)
        if picture is not None
    }
    if references:
        hashes[_REFERENCES] = [_hash(picture) for picture in references]
    source = {GOES_ON: True} if goes_on else {}
    for name, clip in zip(_CLIPS, (video, mask), strict=True):
        if clip is not None:
            hashes[name] = hashlib.sha256(clip).hexdigest()
    made_by = {"version": package_version(), "variant": variant}
    settings = {
        _TITLE: {**made_by, **request_fields(spec, model, output, fragment_prompts), **hashes, **source}
    }
    return json.dumps(settings, ensure_ascii=False)


def settings_in(video: bytes) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """Return the request in a video's file, and the hashes of the pictures that it had; None without one.

    Trusts nothing: the fields may have any value, and are those of ``request_fields`` alone. But for a WebP,
    whose settings are at its end, the file may be cut off after its first megabyte.
    """
    try:
        comment = json.loads(comment_of(video) or "")
    except (ValueError, RecursionError):
        return None
    settings = comment.get(_TITLE) if isinstance(comment, dict) else None
    if not isinstance(settings, dict):
        return None
    request = {name: settings[name] for name in settings.keys() & _REQUESTED}
    return request, {name: settings[name] for name in settings.keys() & _MORE}


def _hash(picture: SourceImage) -> str:
    return hashlib.sha256(picture.pixels.tobytes()).hexdigest()
