"""The inputs of a run: the request that its engine gets, with the stored pictures and videos of its task."""

from dataclasses import replace

from models.engine import Frames, GenerationRequest, Picture
from serve_app.files.artifacts import Artifacts
from serve_app.media.source_image import SourceImage
from serve_app.media.video_decoding import read_clip
from serve_app.replica.earlier_video import EarlierVideo
from serve_app.tasks.task import TaskSpec


class RunInputs:
    """Reads the inputs of one task, in the size of its video."""

    def __init__(self, spec: TaskSpec, artifacts: Artifacts) -> None:
        self._spec = spec
        self._artifacts = artifacts

    def request(self, revised_prompt: str | None, earlier: EarlierVideo | None) -> GenerationRequest:
        """Return the request; ``revised_prompt``, if there is one, in place of the task's.

        Raises ``FileNotFound`` if an input is gone, ``VideoReadError``.
        """
        spec = self._spec
        if revised_prompt:
            spec = replace(spec, prompt=revised_prompt)
        return GenerationRequest.from_spec(
            spec,
            image=self._frame(spec.image_key),
            last_image=self._frame(spec.last_image_key),
            # A coordinator of the version before sends a task without them.
            fragment_prompts=getattr(spec, "fragment_prompts", ()),
            video=self._clip(getattr(spec, "video_key", None)),
            mask=self._clip(getattr(spec, "mask_key", None), is_mask=True),
            control_scale=getattr(spec, "control_scale", 1.0),
            references=tuple(self._stored(key).pixels for key in getattr(spec, "reference_keys", ())),
            tail=None if earlier is None else earlier.tail(),
            fragments_before=0 if earlier is None else len(earlier.going_on.kept_ends),
        )

    def _frame(self, key: str | None) -> Picture | None:
        """Load a stored image, scaled and cropped to the video's size; None without a key."""
        if key is None:
            return None
        return self._stored(key).cover_crop(self._spec.width, self._spec.height)

    def _clip(self, key: str | None, *, is_mask: bool = False) -> Frames | None:
        """Load a stored video, or a mask; None without a key."""
        if key is None:
            return None
        shape = (self._spec.num_frames, self._spec.height, self._spec.width)
        return read_clip(self._artifacts.input_path(key), shape, is_mask=is_mask)

    def _stored(self, key: str) -> SourceImage:
        return SourceImage.from_png(self._artifacts.read_input(key))
