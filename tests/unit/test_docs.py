"""What the docs name is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_fault_names_a_test_that_exists() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (ROOT / "docs/reliability.md").read_text())
    assert len(named) > 10
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests/service" / file).read_text(), f"{file} has no {test}"
