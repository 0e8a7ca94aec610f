"""One interpreting process for all tests of the kernels."""

from collections.abc import Iterator

import pytest

from .interpreter import Interpreter, interpreter


@pytest.fixture(scope="session")
def interpreted() -> Iterator[Interpreter]:
    with interpreter() as run:
        yield run
