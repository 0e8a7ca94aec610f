"""Programs that tests need beside Python's packages."""

import os
from typing import TypeVar

import pytest

Found = TypeVar("Found")


def needed(found: Found | None, name: str, source: str) -> Found:
    """Return what was found. Without it the test is skipped, but fails in CI, which installs ``source``."""
    if found is None:
        assert not os.environ.get("CI"), f"CI runs this test: {name} comes with {source}"
        pytest.skip(f"there is no {name}: it comes with {source}")
    return found
