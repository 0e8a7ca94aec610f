"""Request models of LightX2V's local API and their conversion to orders."""

from typing import Annotated

from pydantic import ConfigDict, Field

from serve_app.api.http.request_model import RequestModel, Text
from serve_app.api.http.video_fields import Fragments, NegativePrompt, Prompt, SavePath, TaskId
from serve_app.submission.field_words import FieldWords
from serve_app.submission.video_order import VideoOrder

LOCAL_WORDS = FieldWords({"first_frame": "image_path", "save_path": "save_video_path"})


class LocalRequest(RequestModel):
    """Request for a video, as LightX2V's `post.py` sends it."""

    model_config = ConfigDict(json_schema_extra={"required": ["task_id", "prompt", "save_video_path"]})

    task_id: TaskId = Field(description="The task's id.", examples=["cat-1"])
    task_id_must_unique: bool = Field(
        default=False, description="Refuse an id that is taken; else the newer task replaces the older one."
    )
    prompt: Prompt = Field(
        default="",
        description="What the video shows; may be empty beside an image.",
        examples=["Two cats in boxing gear"],
    )
    negative_prompt: NegativePrompt = Field(
        default="", description="What the video should not show; empty: the model's own."
    )
    image_path: Text = Field(default="", description="The first frame; makes it image-to-video.")
    save_video_path: SavePath = Field(
        description="Where the video goes: relative to the output root, or absolute below an output folder.",
        examples=["./output_t2v.mp4"],
    )
    num_fragments: Fragments = Field(
        default=1, description="Consecutive fragments, each going on from the end of the one before."
    )
    use_prompt_enhancer: bool = Field(
        default=False, description="Have a chat model write the prompt out; an error where there is none."
    )

    def order(self) -> VideoOrder:
        """Return the order of this request."""
        return VideoOrder(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt or None,
            first_frame=self.image_path or None,
            num_fragments=self.num_fragments,
            enhance_prompt=self.use_prompt_enhancer,
            save_path=self.save_video_path or None,
            task_id=self.task_id,
            sent=self.model_dump(mode="json"),
        )


class TaskStatusRequest(RequestModel):
    """Request for the status of a task."""

    task_id: Annotated[Text, Field(max_length=1024)] = Field(description="The task's id.", examples=["cat-1"])
