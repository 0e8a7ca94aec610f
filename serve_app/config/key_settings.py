"""Settings of an API key: its holder's rights and limits."""

from pydantic import Field, model_validator

from serve_app.config.section import Section
from serve_app.config.webhook_settings import WebhookSecret


class KeySettings(Section):
    """One API key, stored as its hash, and its holder's rights and limits: ``wan-serve keys make``."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$",
        description="owner of its tasks, and of a folder for their videos",
    )
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="the key's hash, in hexadecimal digits")
    admin: bool = Field(default=False, description="whether its holder sees and stops the tasks of every key")
    max_queued: int | None = Field(
        default=None, ge=1, description="queued tasks it may have before it gets a 429"
    )
    max_running: int | None = Field(
        default=None, ge=1, description="tasks that may run for it at once; more wait in the queue"
    )
    max_priority: int | None = Field(
        default=None, ge=0, description="priorities it may ask for; by default those of limits.max_priority"
    )
    weight: float = Field(
        default=1.0,
        ge=0.01,
        le=100,
        description="share of a busy service, in proportion to the weights of the other keys",
    )
    webhook_secrets: tuple[WebhookSecret, ...] = Field(
        default=(),
        description="secrets, each whsec_…, that sign the messages to its callback_url; two while one is "
        "replaced by the other",
    )

    settings_in_file: bool = Field(
        default=True, description="whether its videos hold their settings, the prompt among them"
    )

    @model_validator(mode="after")
    def _folder_of_its_own(self) -> "KeySettings":
        if self.name == "videos":
            raise ValueError("name: must not be videos, the folder of videos that have no owner")
        return self
