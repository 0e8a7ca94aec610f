"""Request for a remix, a video with the settings of an earlier one and another prompt, and its order."""

from pydantic import ConfigDict, Field

from serve_app.api.http.request_model import RequestModel
from serve_app.api.http.video_fields import Prompt
from serve_app.api.openai.video_document import REMIXED
from serve_app.submission.continuation import source_of
from serve_app.submission.video_order import KeptInput, VideoOrder
from serve_app.tasks.task import Task


class RemixRequest(RequestModel):
    """Another prompt for the settings, the seed and the pictures of an earlier video."""

    model_config = ConfigDict(json_schema_extra={"required": ["prompt"]})

    prompt: Prompt = Field(default="", description="What the video shows.", examples=["the same at night"])

    def order(self, task: Task, *, idempotency_key: str | None) -> VideoOrder:
        """Return the order of a remix."""
        spec = task.spec
        return VideoOrder(
            prompt=self.prompt,
            negative_prompt=spec.negative_prompt,
            first_frame=_kept(spec.image_key),
            last_frame=_kept(spec.last_image_key),
            references=tuple(map(KeptInput, spec.reference_keys)),
            video=_kept(spec.video_key),
            mask=_kept(spec.mask_key),
            control_scale=None if spec.control_scale == 1.0 else spec.control_scale,
            width=spec.width,
            height=spec.height,
            num_frames=spec.num_frames,
            num_fragments=spec.all_fragments,
            continue_from=source_of(spec),
            fps=spec.fps,
            steps=spec.steps,
            guidance_scale=spec.guidance_scale,
            guidance_scale_2=spec.guidance_scale_2,
            flow_shift=spec.flow_shift,
            seed=spec.seed,
            model=task.model,
            loras=spec.loras,
            format=spec.output.format,
            codec=spec.output.codec,
            crf=spec.output.crf,
            return_last_frame=spec.output.return_last_frame,
            idempotency_key=idempotency_key,
            sent={"prompt": self.prompt, REMIXED: task.id},
        )


def _kept(key: str | None) -> KeptInput | None:
    return None if key is None else KeptInput(key)
