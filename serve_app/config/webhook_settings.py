"""The settings of webhooks: who signs the messages, and where they may go."""

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from serve_app.config.section import Seconds, Section
from serve_app.config.webhook_secret import secret_bytes


def _webhook_secret(secret: SecretStr) -> SecretStr:
    secret_bytes(secret.get_secret_value())
    return secret


WebhookSecret = Annotated[SecretStr, AfterValidator(_webhook_secret)]
"""A secret that is in no text of the settings; ``wan-serve keys make`` makes one."""


class WebhookSettings(Section):
    """The messages to the ``callback_url`` of a task (webhooks)."""

    secrets: tuple[WebhookSecret, ...] = Field(
        default=(),
        description="secrets, each whsec_…, that sign the messages of a service without keys; "
        "a key has its own",
    )
    networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(),
        description="networks that receivers may be in beside the public internet, as `10.1.0.0/16`",
    )
    public_url: str = Field(
        default="",
        pattern=r"^(https?://[^\s?#]+)?$",
        description="where clients reach this service: begins the result_url of a message",
    )
    timeout_s: Seconds = Field(default=15.0, description="how long a receiver may take to answer")
