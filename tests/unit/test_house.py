"""Rules that no linter has: lengths of files, functions and lines of the docs."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE_LINES = 400
FUNCTION_LINES = 60
DOC_COLUMNS = 120


def tracked(*patterns: str) -> list[Path]:
    """Return the files of the repository, those not committed yet among them, without ignored ones."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return [ROOT / name for name in listed if (ROOT / name).is_file()]


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def long_files() -> Iterator[str]:
    for file in tracked("*.py"):
        if len(file.read_text().splitlines()) > FILE_LINES:
            yield name(file)


def long_functions() -> Iterator[str]:
    for file in tracked("*.py"):
        for node in functions(ast.parse(file.read_text())):
            if (node.end_lineno or node.lineno) - node.lineno + 1 > FUNCTION_LINES:
                yield f"{name(file)}:{node.name}"


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield all functions, also those in others; expressions, which are most of a tree, hold none."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        if not isinstance(node, ast.expr):
            yield from functions(node)


def test_no_file_and_no_function_is_two_things() -> None:
    assert not list(long_files()), f"over {FILE_LINES} lines"
    assert not list(long_functions()), f"over {FUNCTION_LINES} lines"


def test_each_migration_follows_the_one_before() -> None:
    files = sorted((ROOT / "serve_app/store/migrations/versions").glob("0*.py"))
    links = [
        re.findall(r'^(?:down_)?revision = "?(\w+)"?$', file.read_text(), re.MULTILINE) for file in files
    ]
    numbers = [file.name[:4] for file in files]
    assert links == [list(link) for link in zip(numbers, ["None", *numbers[:-1]], strict=True)]


@pytest.mark.parametrize("page", tracked("*.md"), ids=name)
def test_a_line_of_the_docs_fits_a_screen(page: Path) -> None:
    for number, line in enumerate(page.read_text().splitlines(), 1):
        text = re.sub(r"\]\([^)]*\)|https?://\S+", "", line)  # an address cannot be broken
        assert line.startswith("|") or len(text) <= DOC_COLUMNS, f"{name(page)}:{number}: {len(text)} columns"
