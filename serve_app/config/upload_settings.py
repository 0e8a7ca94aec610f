"""The settings of uploads: where the service sends finished videos."""

from ipaddress import IPv4Network, IPv6Network

from pydantic import Field

from serve_app.config.section import Seconds, Section


class UploadSettings(Section):
    """The sending of finished videos to the ``upload_url`` of a task; ``{}`` for these defaults."""

    networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(),
        description="networks that storages may be in beside the public internet, as `10.1.0.0/16`",
    )
    timeout_s: Seconds = Field(default=900.0, description="how long one attempt at an upload may take")
