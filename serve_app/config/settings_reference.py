"""The settings reference: every setting with its default, its range and one sentence.

``wan-serve settings`` prints it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from models.tuning import OPTIONS
from serve_app.config.section import Section, model_in
from serve_app.config.settings import AppSettings

COMMAND = "wan-serve settings --markdown > docs/settings.md"
"""The command that generates the page."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A key of a section."""

    key: str
    default: str
    takes: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Group:
    """The keys of one section. ``place``: the section's path below ``args``, such as
    ``models[].parallel``.
    """

    place: str
    about: str
    settings: tuple[Setting, ...]


def reference() -> tuple[Group, ...]:
    """List all settings, a section before the sections in it."""
    return (
        *_groups(AppSettings, "args"),
        Group(
            "args.models[].options",
            "Speed settings of the default engine; none changes a number but where it says so.",
            tuple(Setting(o.name, _default(o.default), o.takes, o.sentence) for o in OPTIONS),
        ),
    )


def as_text() -> str:
    """Format the reference for a terminal."""
    lines: list[str] = []
    for group in reference():
        lines += [f"{group.place}: {group.about}", ""]
        for setting in group.settings:
            lines += [
                f"  {setting.key}: {setting.takes}; default: {setting.default}",
                f"      {setting.sentence}",
            ]
        lines.append("")
    return "\n".join(lines).rstrip()


def as_markdown() -> str:
    """Format the reference as the page ``docs/settings.md``."""
    lines = [
        "# Settings",
        "",
        "Every key of the `args` in a configuration. `wan-serve settings` prints the same. A key that does",
        "not exist stops the start with one sentence that names the nearest one that does.",
        "",
        f"Generated: `{COMMAND}`",
    ]
    for group in reference():
        lines += ["", f"## `{group.place}`", "", group.about.replace("``", "`"), ""]
        lines += ["| Key | Takes | Default | |", "|---|---|---|---|"]
        for setting in group.settings:
            cells = (f"`{setting.key}`", setting.takes, setting.default, setting.sentence)
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def _groups(section: type[Section], place: str) -> Iterator[Group]:
    properties = section.model_json_schema()["properties"]
    yield Group(
        place,
        " ".join((section.__doc__ or "").split()),
        tuple(
            Setting(
                name,
                "required" if field.is_required() else _default(field.get_default(call_default_factory=True)),
                _takes(properties[name]),
                _sentence(field.description or ""),
            )
            for name, field in section.model_fields.items()
        ),
    )
    for name, field in section.model_fields.items():
        nested = model_in(field.annotation)
        if nested is not None and issubclass(nested, Section):
            listed = properties[name].get("type") == "array"
            yield from _groups(nested, f"{place}.{name}{'[]' if listed else ''}")


def _sentence(description: str) -> str:
    return f"{description[:1].upper()}{description[1:].rstrip('.')}."


def _default(value: object) -> str:
    if value is None or value in ((), {}):
        return "none"
    if isinstance(value, Section):
        return "those below"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _takes(schema: Mapping[str, Any]) -> str:
    """Describe the values that a key takes, from its JSON schema."""
    if "anyOf" in schema:
        either = [_takes(kind) for kind in schema["anyOf"] if kind.get("type") != "null"]
        return " or ".join(dict.fromkeys(either))
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    if "const" in schema:
        return str(schema["const"])
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return "a section" if name.endswith("Settings") else "a hub's model"
    if schema["type"] == "array":
        return f"a list of {_takes(schema['items']).removeprefix('a ')}s"
    if schema.get("format") == "path":
        return "a path"
    kinds = {"string": "text", "boolean": "true or false", "integer": "a whole number", "number": "a number"}
    kind = kinds.get(schema["type"], "a mapping")
    return f"{kind}{_range(schema)}{_form(schema)}"


def _range(schema: Mapping[str, Any]) -> str:
    if "minimum" in schema and "maximum" in schema:
        return f" from {schema['minimum']:g} to {schema['maximum']:g}"
    if "minimum" in schema:
        return f", at least {schema['minimum']:g}"
    return f" above {schema['exclusiveMinimum']:g}" if "exclusiveMinimum" in schema else ""


def _form(schema: Mapping[str, Any]) -> str:
    return f" like `{schema['pattern']}`" if "pattern" in schema else ""
