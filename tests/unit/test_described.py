"""Documents whose fields are described by the texts below them."""

import inspect
from typing import NotRequired

import pytest
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from serve_app.api.http.described import described


@described
class Inner(TypedDict):
    size: int
    """Its size,
    in pixels."""
    plain: int


@described
class Outer(TypedDict):
    """A document in another."""

    inner: NotRequired[Inner]
    """What is in it."""


def test_each_field_has_the_text_below_it() -> None:
    schema = TypeAdapter(Outer).json_schema()
    assert schema["properties"]["inner"]["description"] == "What is in it."
    inner = schema["$defs"]["Inner"]
    assert inner["properties"]["size"]["description"] == "Its size,\nin pixels."
    assert "description" not in inner["properties"]["plain"]
    assert "required" not in schema and inner["required"] == ["size", "plain"]


def test_a_schema_reads_no_source(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise AssertionError("the source was read")

    monkeypatch.setattr(inspect, "getsourcelines", read)
    assert TypeAdapter(Outer).json_schema()["properties"]["inner"]["description"]
