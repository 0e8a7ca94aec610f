"""The messages that docs/troubleshooting.md explains are those that the code says."""

import ast
import re
from pathlib import Path

import pytest

from models.errors import InvalidRequest, LoraRemoved, ModelError, OutOfMemory
from serve_app import errors
from serve_app.coordinator.removed_models import MODEL_REMOVED
from serve_app.store.run_ledger import EXPIRED, WORKER_LOST

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/troubleshooting.md").read_text()
SOURCES = [path for folder in ("models", "serve_app") for path in (ROOT / folder).rglob("*.py")]


def rows(heading: str) -> list[str]:
    """Return the first cell of each row of the table below a heading."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")]
    assert len(cells) > 4, heading
    return cells[1:]


def texts(file: Path) -> list[str]:
    """Return all texts of a module, each value in an f-string as …."""
    tree = ast.parse(file.read_text())
    parts: list[list[ast.expr]] = [node.values for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    plain: list[list[ast.expr]] = [[node] for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return [
        "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in text)
        for text in [*parts, *plain]
    ]


@pytest.fixture(scope="module")
def said() -> str:
    return "\n".join(text for file in SOURCES for text in texts(file))


@pytest.mark.parametrize(
    "message",
    [message for cell in rows("The service does not start") for message in re.findall(r"`([^`]+)`", cell)],
)
def test_each_message_of_a_start_is_said_by_the_code(message: str, said: str) -> None:
    assert message.removeprefix("args.…: ").strip("… ") in said


def test_each_refusal_is_explained_with_its_status() -> None:
    explained = {
        (int(cell.split()[0]), code)
        for cell in rows("A request is refused")
        for code in re.findall(r"`(\w+)`", cell)
    }
    kinds = {(kind.status, kind.code) for name in errors.__all__ if (kind := getattr(errors, name))}
    assert explained <= kinds


def test_each_failure_of_a_task_is_explained() -> None:
    explained = {code for cell in rows("A task fails") for code in re.findall(r"`(\w+)`", cell)}
    of_models = (ModelError, InvalidRequest, LoraRemoved, OutOfMemory)
    failures = {error.code for error in (*of_models, WORKER_LOST, EXPIRED)}
    assert explained == failures | {MODEL_REMOVED}
