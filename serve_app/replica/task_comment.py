"""The comment of a task's video: the settings that the task was run with."""

from serve_app.files.artifacts import Artifacts
from serve_app.media.file_settings import settings_comment
from serve_app.media.source_image import SourceImage
from serve_app.tasks.task import Task
from serve_app.tasks.video_output import PLAIN


def task_comment(task: Task, variant: str, artifacts: Artifacts) -> str:
    """Return the comment of a task's video. Raises ``FileNotFound`` if an input is gone."""

    def stored(key: str) -> SourceImage:
        return SourceImage.from_png(artifacts.read_input(key))

    def clip(key: str | None) -> bytes | None:
        return None if key is None else artifacts.read_input(key)

    def picture(key: str | None) -> SourceImage | None:
        return None if key is None else stored(key)

    spec = task.spec
    return settings_comment(
        spec,
        model=task.model,
        variant=variant,
        image=picture(spec.image_key),
        last_image=picture(spec.last_image_key),
        # A coordinator of the version before sends none of these.
        goes_on=getattr(spec, "continues", None) is not None,
        output=getattr(spec, "output", PLAIN),
        fragment_prompts=getattr(spec, "fragment_prompts", ()),
        video=clip(getattr(spec, "video_key", None)),
        mask=clip(getattr(spec, "mask_key", None)),
        references=[stored(key) for key in getattr(spec, "reference_keys", ())],
    )
