"""kubectl and helm, as ``scripts/kube_tools`` fetches them."""

import os
import sys
from pathlib import Path

import pytest


def program(name: str) -> Path:
    """Return a program's path. Without it the tests are skipped, but fail in CI."""
    path = Path(sys.prefix) / "kube" / name
    if not path.exists():
        assert not os.environ.get("CI"), "CI runs these tests: scripts/kube_tools comes first"
        pytest.skip(f"there is no {name}: scripts/kube_tools fetches it")
    return path


@pytest.fixture(scope="session")
def kubectl() -> Path:
    return program("kubectl")


@pytest.fixture(scope="session")
def helm() -> Path:
    return program("helm")
