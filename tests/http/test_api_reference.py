"""The page of every route: it is what the service is, and its examples run."""

import asyncio
import re
import shlex
from pathlib import Path

import httpx
import pytest

from serve_app.api.application import published_document
from serve_app.api.http.examples import BASE_URL
from serve_app.api.reference import COMMAND, as_markdown
from serve_app.cli.commands import main
from tests.http.http_service import HttpService, listening_at, png

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def test_the_page_is_what_the_service_is() -> None:
    assert PAGE.read_text() == as_markdown() + "\n", f"docs/api.md is out of date: {COMMAND}"


def test_every_route_has_a_section_and_every_document_a_table() -> None:
    page, document = as_markdown(), published_document()
    for path, operations in document["paths"].items():
        for method in operations:
            shown = path.removeprefix("/lightx2v") if "/local/" in path else path
            assert page.count(f"\n`{method.upper()} {shown}`\n") == 1, (method, path)
    for name in document["components"]["schemas"]:
        assert f"\n### {name}\n" in page
    for anchor in re.findall(r"\]\(#([^)]+)\)", page):
        headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
        assert anchor in {re.sub(r"[^\w\s-]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_field_of_a_request_has_a_sentence() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]*) \| (.*) \|$", as_markdown(), re.MULTILINE)
    assert len(rows) > 80
    for name, takes, _default, sentence in rows:
        assert takes.strip() and sentence.endswith("."), name


def test_the_command_prints_the_page_and_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["api", "--markdown"]) == 0
    assert capsys.readouterr().out == PAGE.read_text()
    assert main(["api"]) == 0
    assert '"/v1/tasks/video"' in capsys.readouterr().out


async def test_each_example_of_the_page_runs(service: HttpService, tmp_path: Path) -> None:
    (tmp_path / "ball.png").write_bytes(png())
    commands = re.findall(r"```bash\n(curl .*?)\n```", PAGE.read_text(), re.DOTALL)
    assert len(commands) >= 15
    await service.add_replica()
    async with listening_at(service) as url, httpx.AsyncClient(base_url=url) as client:
        await client.get("/health")  # it listens now
        for command in commands:
            words = shlex.split(command.replace("\\\n", " ").replace(BASE_URL, url))
            if "PATCH" in words:  # of a task that waits; the others are of one that has succeeded
                waiting = (await service.submit())["task_id"]
                words = [word.replace("/ball", f"/{waiting}") for word in words]
            done = await asyncio.create_subprocess_exec(
                *words, "--fail-with-body", "--silent", cwd=tmp_path, stdout=asyncio.subprocess.PIPE
            )
            said, _ = await done.communicate()
            assert done.returncode == 0 and b'"error": "' not in said, (command, said)
            task = await service.ledger.claim("demo", "demo-1")
            if task is not None:
                await service.publish(task)
    assert (tmp_path / "ball.mp4").read_bytes()[:100] == bytes(range(100))
