"""The base of every part of the settings: frozen, with unknown keys refused."""

import typing
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(gt=0)]


class SettingsError(ValueError):
    """A setting that stops the start: one sentence that names the key and what is allowed."""


class Section(BaseModel):
    """A part of the settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def model_in(annotation: object) -> type[BaseModel] | None:
    """The pydantic model in a field's type, through ``Optional``, ``list``, ``tuple`` and unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(model_in, typing.get_args(annotation))), None)
