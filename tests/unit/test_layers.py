"""The tests' imports, which lint-imports cannot see: none is of a benchmark."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS_OF_BENCHMARKS = (ROOT / "tests" / "bench", ROOT / "tests" / "service" / "test_bench_scale.py")


def imported(file: Path) -> set[str]:
    """Return the top-level packages that a file imports anywhere."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def test_only_tests_of_benchmarks_import_benchmarks() -> None:
    leaning = [file for file in (ROOT / "tests").rglob("*.py") if "bench" in imported(file)]
    assert len(leaning) > 2, "the tests of the benchmarks do"
    assert [file for file in leaning if not any(map(file.is_relative_to, TESTS_OF_BENCHMARKS))] == []
