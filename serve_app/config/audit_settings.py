"""The settings of the audit log."""

from pathlib import Path

from pydantic import Field

from serve_app.config.section import Section


class AuditSettings(Section):
    """The record of who had the service do what: a JSON line for each submit, cancel and other act."""

    path: Path = Field(description="the file; relative paths begin where the service is started")
    max_bytes: int = Field(
        default=10_000_000, ge=10_000, description="size at which the file is put aside and a new one begun"
    )
    keep: int = Field(default=10, ge=1, le=1000, description="how many files that were put aside are kept")
