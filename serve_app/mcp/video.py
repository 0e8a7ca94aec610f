"""What the tools answer, as far as the service's own documents are of use to a language model."""

from pydantic import BaseModel, ConfigDict, Field


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True)


class Fault(_Document):
    """Why a video failed."""

    code: str
    message: str


class Video(_Document):
    """A video as it stands."""

    task_id: str
    status: str = Field(description="submitted (it waits), running, succeed, failed or cancelled")
    message: str
    phase: str | None = Field(description="What a running video is at")
    progress: float = Field(description="0 to 1; 1 only at succeed")
    step: int
    total_steps: int
    revised_prompt: str | None = Field(description="What a chat model made of the prompt, if asked to")
    queue_position: int | None
    eta_seconds: float | None
    model: str
    seed: int
    width: int
    height: int
    num_frames: int
    fps: int
    created_at: str
    error: Fault | None

    @property
    def has_ended(self) -> bool:
        """True if nothing about the video changes any more."""
        return self.status in ("succeed", "failed", "cancelled")


class VideoPage(_Document):
    """Some videos, newest first; ``has_more`` says whether older ones follow."""

    tasks: list[Video]
    has_more: bool


class Cancellation(_Document):
    """What a cancel came to: ``success``, or ``do_nothing`` for a video that had ended."""

    stop_status: str
    reason: str


class Link(_Document):
    """Where a finished video, or its last frame, is downloaded."""

    url: str
    needs_key: bool = Field(description="Whether the download has to send the API key, as any request does")
