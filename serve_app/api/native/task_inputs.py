"""The stored pictures and videos that a task is made from, by the field of the request that each was in."""

from collections.abc import Mapping

from serve_app.tasks.task import TaskSpec

CLIPS = frozenset({"video", "mask"})
"""Fields whose input is a video."""


def input_keys(spec: TaskSpec) -> Mapping[str, str]:
    """Return the keys of a task's stored inputs by field: ``image_path``, ``reference_images[0]`` …"""
    keys = {
        "image_path": spec.image_key,
        "last_frame_path": spec.last_image_key,
        "video": spec.video_key,
        "mask": spec.mask_key,
    }
    references = {f"reference_images[{at}]": key for at, key in enumerate(spec.reference_keys)}
    return {field: key for field, key in (keys | references).items() if key is not None}
