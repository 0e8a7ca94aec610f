"""A service of the version before goes on during an upgrade: its statements are answered as they were."""

import json
from pathlib import Path

import pytest

from testbed.conversation import replay

RECORDED = Path(__file__).parent / "conversations"


@pytest.mark.parametrize("version", ["0012"])
async def test_what_the_version_before_says_is_answered_alike_on_the_newest_schema(
    migrated_url: str, kind: str, version: str
) -> None:
    said = json.loads((RECORDED / f"{version}-{kind}.json").read_text())
    assert len(said) > 50
    answers = await replay(migrated_url, said)
    for (statement, _, expected), answer in zip(said, answers, strict=True):
        assert answer == expected, statement
