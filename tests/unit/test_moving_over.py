"""The table of each field's name on each surface: it is what the surfaces read."""

import re
from dataclasses import dataclass, fields
from pathlib import Path

from serve_app.api.lightx2v.task_request import OWN_WORDS, LightX2VRequest
from serve_app.api.native.video_request import VideoRequest
from serve_app.api.openai.create_request import CreateRequest
from serve_app.api.openai.sent_files import NAMES
from serve_app.mcp.order import NATIVE_NAMES
from serve_app.submission.video_order import VideoOrder

PAGE = Path(__file__).parents[2] / "docs" / "moving-over.md"
OF_NO_REQUEST = {"idempotency_key", "notes", "sent"}
"""Fields of an order that no field of a request asks for."""


@dataclass(frozen=True)
class Row:
    """The names that one thing is asked for by; those of LightX2V that are not the native ones."""

    native: set[str]
    openai: set[str]
    lightx2v: set[str]
    mcp: set[str]


def table() -> list[Row]:
    section = PAGE.read_text().partition("## Each field's name")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    return [
        Row(*(set(re.findall(r"`(\w+)`", cell)) for cell in line.strip("| ").split(" | "))) for line in lines
    ]


def test_every_name_of_every_surface_is_in_the_table_once() -> None:
    rows = table()
    for column, names in (
        ("native", VideoRequest.model_fields.keys()),
        ("openai", CreateRequest.model_fields.keys() - {"n"}),
        ("lightx2v", LightX2VRequest.model_fields.keys() - VideoRequest.model_fields.keys() - {"task"}),
        ("mcp", NATIVE_NAMES.keys()),
    ):
        told = [name for row in rows for name in getattr(row, column)]
        assert sorted(told) == sorted(names), column


def test_names_of_one_row_ask_for_the_same_thing() -> None:
    native, openai = VideoRequest(), CreateRequest()
    native_words, openai_words = native.words(), openai.words(openai.files({}))
    row_of = {name: row for row in table() for name in row.native}
    for field in fields(VideoOrder):
        if field.name not in OF_NO_REQUEST:
            row = row_of[native_words[field.name]]
            assert {openai_words[field.name], *NAMES.get(field.name, ())} <= row.openai, field.name
    for name, words in OWN_WORDS.items():
        assert set(words) == row_of[name].lightx2v
    for argument, name in NATIVE_NAMES.items():
        assert argument in row_of[name].mcp
