"""Every path that the docs name exists."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
).stdout.splitlines()
PAGES = [name for name in FILES if name.endswith(".md")]
FOLDERS = "serve_app|models|training|bench|deploy|testbed|tests|docs|scripts"


def named_paths(text: str) -> list[str]:
    """Return paths and file names that stand in backticks."""
    words = [word for code in re.findall(r"`([^`\n]+)`", text) for word in code.split()]
    path = re.compile(rf"[\w./-]+\.(py|md|toml|yaml|sh)|({FOLDERS})/[\w./-]*")
    return [word for word in words if path.fullmatch(word.partition("::")[0])]


@pytest.mark.parametrize("page", PAGES)
def test_each_path_that_the_docs_name_exists(page: str) -> None:
    for named in named_paths((ROOT / page).read_text()):
        path = named.partition("::")[0]
        if "/" not in path:
            assert any(f"/{name}".endswith(f"/{path}") for name in FILES), f"{page}: no file is called {path}"
        else:
            inside = ("", "models/", "serve_app/", f"{Path(page).parent}/")
            assert any((ROOT / parent / path).exists() for parent in inside), f"{page}: there is no {path}"


@pytest.mark.parametrize("page", PAGES)
def test_each_link_between_the_docs_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", (ROOT / page).read_text()):
        if not target.startswith("http"):
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page} links to {target}"


def test_ten_questions_of_a_newcomer_are_answered_by_files_that_exist() -> None:
    section = (
        (ROOT / "docs/architecture.md").read_text().partition("## Ten questions")[2].partition("\n## ")[0]
    )
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 10
    for question, answer in rows:
        named = named_paths(answer)
        assert named and all((ROOT / path).exists() for path in named), question


def test_each_fault_names_a_test_that_exists() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (ROOT / "docs/reliability.md").read_text())
    assert len(named) > 10
    for file, test in named:
        paths = (ROOT / "tests").rglob(file)
        assert any(f"def {test}(" in path.read_text() for path in paths), f"{file} has no {test}"
