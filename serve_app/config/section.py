"""What every part of the settings is: frozen, and strict about its keys."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(gt=0)]


class SettingsError(ValueError):
    """A setting that stops the start: one sentence that names the key and what is allowed."""


class Section(BaseModel):
    """A part of the settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
