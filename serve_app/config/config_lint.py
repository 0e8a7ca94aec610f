"""Ray's own part of a Serve configuration, checked strictly before it is deployed.

Ray silently drops unknown keys at nearly every level, so that ``min_replica: 4`` gives one replica. Here an
unknown key is an error. ``serve_app.config.settings`` checks the ``args``; values that Ray passes through,
such as a ``runtime_env`` or a ``user_config``, are not checked.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from ray.serve.config import AutoscalingPolicy
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from serve_app.config.section import SettingsError, model_in
from serve_app.findings import Loc, path, reason, unknown

_SECTIONS_TYPED_AS_DICT: Mapping[tuple[type[BaseModel], str], type[BaseModel]] = {
    (ServeApplicationSchema, "autoscaling_policy"): AutoscalingPolicy,
}


def load(file: Path) -> Mapping[str, Any]:
    """Load the configuration in a YAML file. Raises ``SettingsError`` for a file without one."""
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot be read: {_reason(error)}.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise SettingsError(f"is not valid YAML: {place}{_reason(error)}.") from None
    return _mapping(config)


def lint(config: object) -> None:
    """Check Ray's part. Raises ``SettingsError``, one sentence with the key's path, for an unknown key or a
    wrong value.
    """
    config = _mapping(config)
    sections = list(_sections(config, ServeDeploySchema, ()))
    for loc, section, schema in sections:
        for key in section:
            if key not in schema.model_fields:
                said = unknown("Ray Serve has no such key", str(key), sorted(schema.model_fields))
                raise SettingsError(f"{_path((*loc, key))}: {said}.")
    _validate(config, ServeDeploySchema, ())
    # Ray reads some sections as plain dictionaries first and looks into them only when it deploys.
    for loc, section, schema in sections:
        _validate(section, schema, loc)


def _sections(
    value: object, schema: type[BaseModel], loc: Loc
) -> Iterator[tuple[Loc, Mapping[Any, Any], type[BaseModel]]]:
    """Iterate over the mappings in ``value`` that Ray has a schema for, outermost first."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _sections(item, schema, (*loc, index))
    elif isinstance(value, Mapping):
        yield loc, value, schema
        for name, field in schema.model_fields.items():
            nested = _SECTIONS_TYPED_AS_DICT.get((schema, name)) or model_in(field.annotation)
            if nested and name in value:
                yield from _sections(value[name], nested, (*loc, name))


def _validate(value: Mapping[Any, Any], schema: type[BaseModel], loc: Loc) -> None:
    try:
        schema.model_validate(value)
    except ValidationError as error:
        finding = error.errors(include_url=False)[0]
        place = (*loc, *_places(finding["loc"], value, finding["type"] == "missing"))
        raise SettingsError(f"{_path(place)}: {reason(finding)}.") from None
    except (ImportError, AttributeError) as error:
        # Import paths (a policy, a router class) are imported while Ray validates them.
        raise SettingsError(f"{_path(loc)}: an import path in it does not work: {_reason(error)}.") from None


def _places(found: Loc, value: Any, missing: bool) -> Iterator[int | str]:
    """Return pydantic's path without the names of union members, which are in no file."""
    for part in found:
        try:
            value = value[part]
        except (LookupError, TypeError):
            if not (missing and part == found[-1]):
                continue
        yield part


def _path(loc: Loc) -> str:
    return path(loc) or "the configuration"


def _mapping(config: object) -> Mapping[Any, Any]:
    if not isinstance(config, Mapping) or not config:
        kind = "empty" if not config else f"a {type(config).__name__}"
        raise SettingsError(f"must be a mapping with the key applications, but it is {kind}.")
    return config


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or getattr(error, "problem", None) or str(error)
    return " ".join(str(text).split()).rstrip(".")
