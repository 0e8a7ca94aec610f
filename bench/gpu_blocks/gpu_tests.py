"""The tests that need a GPU, with the packages of a machine that has torch alone."""

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from bench.gpu_blocks.bench import Bench

if TYPE_CHECKING:
    import pytest

_ROOT = Path(__file__).resolve().parents[2]
_SETTINGS = (
    *("-c", "/dev/null", "--rootdir", str(_ROOT), "-o", "pythonpath=.", "--import-mode=importlib"),
    *("-p", "no:cacheprovider", "-p", "no:warnings", "-p", "no:xdist", "-q"),
    "--continue-on-collection-errors",
)
"""Those of pyproject.toml ask for plugins that such a machine has not."""


class Told:
    """A plugin of pytest that tells each test that fails, and counts the others."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.passed = 0
        self.skipped = 0

    def pytest_runtest_logreport(self, report: "pytest.TestReport") -> None:
        """Take up the outcome of a test, or of its setup."""
        if report.failed:
            self._failed(report.nodeid, report.longreprtext)
        self.passed += report.passed and report.when == "call"
        self.skipped += report.skipped

    def pytest_collectreport(self, report: "pytest.CollectReport") -> None:
        """Take up a file that cannot be imported."""
        if report.failed:
            self._failed(report.nodeid or "collection", report.longreprtext)

    def _failed(self, name: str, text: str) -> None:
        said = [line.removeprefix("E ").strip() for line in text.splitlines() if line.startswith("E ")]
        self._bench.found("failure", name, note=said[0] if said else text.strip().rpartition("\n")[2])


def measure(bench: Bench) -> None:
    """Run the tests of ``tests/models`` that are marked ``gpu``, but for the slow ones."""
    files = list(_files())
    tell(bench, "gpu and not slow", files[:1] if bench.tiny else files)


def measure_slow(bench: Bench) -> None:
    """Run those that are slow: they compile."""
    tell(bench, "gpu and slow", _files())


def tell(bench: Bench, marks: str, files: Iterable[str]) -> None:
    """Run the tests with these marks and tell how they end, the reason of each one that fails."""
    if find_spec("pytest") is None:
        bench.found("note", "left out", note="pytest is not installed")
        return
    import pytest

    told = Told(bench)
    pytest.main([*_SETTINGS, "-m", marks, *files], plugins=[told])
    bench.found("figure", "passed", told.passed, "tests", note=f"{told.skipped} skipped")


def _files() -> Iterator[str]:
    for file in sorted((_ROOT / "tests" / "models").rglob("test_*.py")):
        if "mark.gpu" in file.read_text():
            yield str(file)
