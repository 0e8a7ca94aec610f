"""Base model of request bodies, with validation errors worded as sentences."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from serve_app.errors import InvalidField
from serve_app.findings import Loc, path, reason

_NAMED_AT_MOST = 20
_NAME_CHARS = 40


def _storable(text: str) -> str:
    # PostgreSQL stores no NUL, and a lone surrogate (which JSON can spell) cannot be sent back.
    if "\0" in text:
        raise ValueError("must not contain a NUL character")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("must be valid Unicode text") from None
    return text


def _whole(value: object) -> object:
    # Many JSON writers know one kind of number and write 4.0 for 4.
    return int(value) if isinstance(value, float) and value.is_integer() else value


Text = Annotated[str, AfterValidator(_storable)]
WHOLE = BeforeValidator(_whole)
"""Validator that lets an ``int`` field accept 4.0. Placed after the bounds, so that the schema shows them."""


class RequestModel(BaseModel):
    """Frozen base model of a request. A null field counts as not sent; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    @classmethod
    def read_json(cls, body: Mapping[str, Any]) -> Self:
        """Validate a JSON object strictly: numbers must not be strings. Raises ``InvalidField``."""
        return cls._read(body, strict=True)

    @classmethod
    def read_lenient(cls, fields: Mapping[str, Any]) -> Self:
        """Validate a form: numbers may be text, an empty text counts as not sent. Raises ``InvalidField``."""
        texts = {name: value for name, value in fields.items() if isinstance(value, str)}
        for name, text in texts.items():
            schema = _properties(cls).get(name, {})
            # Python's own numbers may be written 1_000, those of JSON may not.
            if "_" in text and schema.get("type") in ("integer", "number"):
                raise InvalidField(name, f"{name}: must be {allowed(schema)}.")
        empty = {name for name, text in texts.items() if not text.strip()}
        return cls._read({name: fields[name] for name in fields if name not in empty}, strict=False)

    @classmethod
    def _read(cls, values: Mapping[str, Any], *, strict: bool) -> Self:
        try:
            return cls.model_validate(
                {name: value for name, value in values.items() if value is not None}, strict=strict
            )
        except ValidationError as error:
            raise _refusal(cls, error) from None

    @classmethod
    def unknown_among(cls, names: Mapping[str, object]) -> tuple[str, ...]:
        """Return the note that lists the unknown field names; none if there are none."""
        # Names come from the client: a lone surrogate in one could not be sent back.
        unknown = [
            name[:_NAME_CHARS].encode("utf-8", "replace").decode()
            for name in names
            if name not in cls.model_fields
        ]
        if not unknown:
            return ()
        more = f" and {len(unknown) - _NAMED_AT_MOST} more" if len(unknown) > _NAMED_AT_MOST else ""
        return (f"Unknown fields were ignored: {', '.join(unknown[:_NAMED_AT_MOST])}{more}.",)


def _refusal(model: type[RequestModel], error: ValidationError) -> InvalidField:
    findings = error.errors(include_url=False, include_input=False)
    sentences = {}
    for finding in reversed(findings):
        place, schema = _placed(model, finding["loc"])
        sentences[place] = f"{place}: {_reason(finding, schema)}"
    return InvalidField(place, "; ".join(sentences[name] for name in reversed(sentences)) + ".")


def _placed(model: type[RequestModel], loc: Loc) -> tuple[str, Mapping[str, Any]]:
    """Return the path of the innermost field that a finding is about, and the field's schema."""
    schema: Mapping[str, Any] = {"properties": _properties(model)}
    for depth, part in enumerate(loc):
        inner = schema.get("items") if isinstance(part, int) else schema.get("properties", {}).get(part)
        if inner is None:  # the name of a type, or what the client made up
            return path(loc[:depth]), schema
        schema = inner
    return path(loc), schema


def _reason(finding: ErrorDetails, schema: Mapping[str, Any]) -> str:
    if finding["type"] in ("missing", "value_error"):
        return reason(finding)
    if finding["type"] == "string_unicode":
        return "must be valid Unicode text"
    if finding["type"] == "extra_forbidden":
        return f"may have {', '.join(schema['properties'])}, and nothing else"
    return f"must be {allowed(schema)}"


@cache
def _properties(model: type[RequestModel]) -> Mapping[str, Mapping[str, Any]]:
    properties: Mapping[str, Mapping[str, Any]] = model.model_json_schema()["properties"]
    return properties


def allowed(schema: Mapping[str, Any]) -> str:
    """Describe in words the values that a field accepts, from its JSON schema."""
    describe: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
        "integer": lambda found: f"a whole number{_range(found)}",
        "number": lambda found: f"a number{_range(found)}",
        "string": lambda found: f"text{_length(found)}",
        "boolean": lambda _found: "true or false",
        "object": lambda _found: "an object",
        "array": lambda _found: "a list",
    }
    kinds = schema.get("type", ())
    named = [kinds] if isinstance(kinds, str) else kinds
    return " or ".join(describe[kind](schema) for kind in named) or "of another form"


def _range(schema: Mapping[str, Any]) -> str:
    if "minimum" in schema and "maximum" in schema:
        return f" from {schema['minimum']:g} to {schema['maximum']:.16g}"
    if "exclusiveMinimum" in schema and "maximum" in schema:
        return f" above {schema['exclusiveMinimum']:g} and up to {schema['maximum']:.16g}"
    return ""


def _length(schema: Mapping[str, Any]) -> str:
    if "maxLength" not in schema:
        return ""
    return f" of {schema.get('minLength', 0)} to {schema['maxLength']} characters"
