"""``wan-serve`` against the real service, over a socket: what it prints, and its exit statuses."""

import asyncio
import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from serve_app.tasks.task import TaskError as Failure
from tests.http.http_service import VIDEO, HttpService, listening_at, png
from wan_serve.commands.commands import ABOUT, add_commands
from wan_serve.commands.exit_status import ExitStatus
from wan_serve.commands.program import new_app, run

ROOT = Path(__file__).parents[2]
WITHIN_S = 60.0
LEFT = "The task goes on; see wan-serve status "
HOSTILE = "\x1b[2J\x1b]0;title\x07[bold red]ball[/] :boom: \u202egnp.\x9b31m\r\n{0} end"
SHOWN = r"\x1b[2J\x1b]0;title\x07[bold red]ball[/] :boom: \u202egnp.\x9b31m"


@dataclass(frozen=True)
class Ran:
    """What a command line came to."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


class CommandLine:
    """Runs commands in this process, one after the other, beside the service in its event loop."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._app = new_app(ABOUT)
        add_commands(self._app)

    async def __call__(self, *arguments: str | Path) -> Ran:
        status = await asyncio.to_thread(run, self._app, list(map(str, arguments)))
        said = self._capsys.readouterr()
        return Ran(status, said.out, said.err)


@pytest_asyncio.fixture
async def url(service: HttpService, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    async with listening_at(service) as url:
        monkeypatch.setenv("WAN_SERVE_URL", url)
        yield url


@pytest.fixture
def wan_serve(url: str, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


async def until_queued(service: HttpService) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not service.nudges:
            await asyncio.sleep(0.01)


async def test_a_submit_prints_an_id_that_the_other_commands_take(
    service: HttpService, wan_serve: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    submitted = await wan_serve("submit", "a red ball", "--seed", "7", "--set", "num_fragments=2")
    assert submitted.status == 0 and submitted.err == ""
    task_id = submitted.out.strip()
    shown = await wan_serve("status", task_id)
    assert "waiting, number 1 in the queue" in shown.out and "a red ball" in shown.out
    document = (await wan_serve("status", task_id, "--json")).document
    assert (document["task_id"], document["seed"]) == (task_id, 7)
    settings = (await service.client.get(f"/v1/tasks/{task_id}/settings")).json()["settings"]
    assert settings["num_fragments"] == 2

    await service.publish(await service.claim())
    assert (await wan_serve("download", task_id)).out == f"{task_id}.mp4\n"
    assert (tmp_path / f"{task_id}.mp4").read_bytes() == VIDEO
    stored = (await wan_serve("download", task_id, "-o", tmp_path / "ball.mp4", "--json")).document
    assert Path(stored["file"]).read_bytes() == VIDEO
    repeated = (await wan_serve("again", task_id, "a blue ball", "--json")).document
    assert (repeated["seed"], repeated["prompt"]) == (7, "a blue ball")
    redrawn = (await wan_serve("again", task_id, "--new-seed", "--json")).document
    assert redrawn["seed"] != 7 and redrawn["prompt"] == "a red ball"
    cancelled = await wan_serve("cancel", repeated["task_id"])
    assert cancelled.out == f"{repeated['task_id']}: cancelled\n"


async def test_a_submit_takes_pictures_and_all_that_says_how(
    service: HttpService, wan_serve: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "ball.png").write_bytes(png())
    done = await wan_serve(
        *("submit", "--image", tmp_path / "ball.png", "--model", "demo", "--negative", "rain"),
        *("--steps", "5", "--guidance", "3", "--frames", "9", "--priority", "2", "--json"),
    )
    assert done.status == 0, done.err
    document = done.document
    assert (document["total_steps"], document["num_frames"], document["priority"]) == (5, 9, 2)
    assert document["inputs"] == ["image_path"]
    settings = (await service.client.get(f"/v1/tasks/{document['task_id']}/settings")).json()["settings"]
    assert (settings["negative_prompt"], settings["guidance_scale"]) == ("rain", 3.0)


async def test_a_size_is_asked_for_by_its_tier(service: HttpService, wan_serve: CommandLine) -> None:
    (offered, *_) = (await service.client.get("/v1/service/metadata")).json()["models"]
    size = offered["sizes"][-1]
    done = await wan_serve("submit", "a red ball", "--tier", size["tier"], "--ratio", size["ratio"], "--json")
    assert (done.document["width"], done.document["height"]) == (size["width"], size["height"])
    refused = await wan_serve("submit", "a red ball", "--tier", "9000p")
    assert refused.status == ExitStatus.USAGE
    assert "has no size 9000p; it offers " in refused.err and size["tier"] in refused.err
    listed = await wan_serve("models")
    assert "demo" in listed.out and size["ratio"] in listed.out
    assert (await wan_serve("models", "--json")).document[0]["name"] == "demo"


async def test_a_submit_waits_stores_the_video_and_shows_it(
    service: HttpService, wan_serve: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = tmp_path / "bin" / "xdg-open"
    viewer.parent.mkdir()
    viewer.write_text(f'#!/bin/sh\necho "$1" > {tmp_path / "opened"}\n')
    viewer.chmod(0o755)
    monkeypatch.setenv("PATH", str(viewer.parent), prepend=os.pathsep)
    video = tmp_path / "ball.mp4"
    waiting = asyncio.create_task(wan_serve("submit", "a red ball", "--output", video, "--open"))
    await until_queued(service)
    await service.publish(await service.claim())
    done = await waiting
    assert (done.status, done.out, done.err) == (0, f"{video}\n", "")
    assert video.read_bytes() == VIDEO
    assert (tmp_path / "opened").read_text() == f"{video}\n"


@pytest.mark.parametrize("is_failed", [True, False])
async def test_a_task_that_ends_without_a_video_has_its_exit_status(
    service: HttpService, wan_serve: CommandLine, is_failed: bool
) -> None:
    waiting = asyncio.create_task(wan_serve("submit", "a red ball", "--wait", "--json"))
    await until_queued(service)
    task = await service.claim()
    if is_failed:
        await service.ledger.fail(task.uid, task.attempt, Failure("model_error", "The model failed."))
    else:
        await service.client.delete(f"/v1/tasks/{task.id}")
    done = await waiting
    assert done.status == (ExitStatus.TASK_FAILED if is_failed else ExitStatus.CANCELLED)
    assert done.document["status"] == ("failed" if is_failed else "cancelled")
    assert done.err.count("\n") == 1 and "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["submit", "a red ball", "--steps", "0"], ExitStatus.REFUSED, "--steps: must be "),
        (["submit", "a ball", "--set", "infer_steps=0"], ExitStatus.REFUSED, "infer_steps: must be "),
        (["submit"], ExitStatus.REFUSED, "PROMPT: "),
        (["submit", "a", "--seconds", "0"], ExitStatus.REFUSED, "--seconds: must be "),
        (["submit", "a", "--frames", "0"], ExitStatus.REFUSED, "--frames: must be "),
        (["submit", "a", "--guidance", "-1"], ExitStatus.REFUSED, "--guidance: must be "),
        (["submit", "a", "--ratio", "x"], ExitStatus.REFUSED, "--ratio: must be "),
        (["submit", "a", "--size", "x"], ExitStatus.REFUSED, "--size: must be "),
        (["submit", "a", "--lora", "x:99"], ExitStatus.REFUSED, "--lora[0].strength: must be "),
        (["submit", "a", "--image", "http://["], ExitStatus.REFUSED, "--image is a URL"),
        (["submit", "a", "--last", "data:,"], ExitStatus.REFUSED, "--last: "),
        (["submit", "a", "--reference", "data:,"], ExitStatus.REFUSED, "--reference"),
        (["submit", "a", "--negative", "x" * 9000], ExitStatus.REFUSED, "--negative: "),
        (["status", "none"], ExitStatus.REFUSED, "none"),
        (["models", "--url", "http://127.0.0.1:1"], ExitStatus.UNREACHABLE, "No service answers at "),
        (
            ["submit", "--image", "/no/such.png"],
            ExitStatus.FAILED,
            "/no/such.png: No such file",
        ),
        (["list", "--key-file", "/no/key"], ExitStatus.FAILED, "/no/key: No such file"),
        (["submit", "a", "--lora", "x:y"], ExitStatus.USAGE, "a LoRA looks like NAME"),
        (["submit", "a", "--set", "fps"], ExitStatus.USAGE, "a field looks like fps=24, not fps"),
        (["cancel"], ExitStatus.USAGE, "give tasks, or --all, or --waiting"),
        (["cancel", "all"], ExitStatus.USAGE, "'all' is no task id"),
        (["list", "--url", "localhost:8000"], ExitStatus.USAGE, "an address looks like http://"),
        (["sumbit"], ExitStatus.USAGE, "No such command 'sumbit'"),
        ([], ExitStatus.USAGE, "Missing command"),
    ],
    ids=lambda value: "-".join(value[:3]) if isinstance(value, list) else None,
)
async def test_what_goes_wrong_is_one_sentence_and_an_exit_status(
    wan_serve: CommandLine, arguments: list[str], status: ExitStatus, said: str
) -> None:
    done = await wan_serve(*arguments)
    assert (done.status, done.out) == (status, "")
    assert said in done.err and done.err.count("\n") == 1, done.err


@pytest.mark.slow
async def test_the_queue_is_listed_and_worked_with(
    service: HttpService, wan_serve: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wan_serve.commands.tasks.PAGE", 1)
    first, second = [(await wan_serve("submit", f"ball {n}")).out.strip() for n in range(2)]
    assert (await wan_serve("next", second)).out == f"{second}: waiting, number 1 in the queue\n"
    paused = await wan_serve("pause")
    assert (paused.status, paused.out) == (0, "")
    assert (await wan_serve("status", first, "--json")).document["queue_position"] is None
    assert (await wan_serve("pause", "--json")).document["paused"] is True
    assert (await wan_serve("resume", "--json")).document["paused"] is False
    listed = await wan_serve("list")
    assert [line.split()[0] for line in listed.out.splitlines()] == ["task", second, first]
    assert [task["task_id"] for task in (await wan_serve("list", "--json", "-n", "1")).document] == [second]
    assert (await wan_serve("list", "--after", first, "--json")).document == []
    assert (await wan_serve("list", "--status", "failed", "--json")).document == []
    assert (await wan_serve("finish", first)).status == ExitStatus.REFUSED
    await service.add_replica()
    shown = await wan_serve("status")
    assert shown.out.splitlines()[1].split() == ["demo", "1", "0", "2", "cpu", "ready"]
    assert (await wan_serve("status", "--json")).document["pending_tasks"] == 2
    assert (await wan_serve("cancel", "--waiting")).out == "Tasks stopped successfully: 2.\n"
    assert (await wan_serve("cancel", "--all", "--json")).document["stop_status"] == "do_nothing"


async def test_text_of_others_is_shown_as_text(service: HttpService, wan_serve: CommandLine) -> None:
    done = await wan_serve("submit", HOSTILE)
    assert done.status == 0, done.err
    task_id = done.out.strip()
    task = await service.claim()
    await service.ledger.fail(task.uid, task.attempt, Failure("model_error", HOSTILE))
    for arguments in (("list",), ("status", task_id), ("download", task_id)):
        shown = await wan_serve(*arguments)
        said = shown.out + shown.err
        assert SHOWN in said and "{0} end" in said, said
        assert said.replace("\n", "").isprintable()
    assert (await wan_serve("status", task_id, "--json")).document["prompt"] == HOSTILE


@pytest.mark.slow
async def test_watch_writes_a_line_for_each_change_until_ctrl_c(service: HttpService, url: str) -> None:
    task_id = (await service.submit())["task_id"]
    watching = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wan_serve.commands", "watch", "--json"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert watching.stdout is not None and watching.stderr is not None
    seen = [json.loads(await asyncio.wait_for(watching.stdout.readline(), WITHIN_S))]
    await service.publish(await service.claim())
    while seen[-1]["status"] != "succeed":
        seen.append(json.loads(await asyncio.wait_for(watching.stdout.readline(), WITHIN_S)))
    assert {task["task_id"] for task in seen} == {task_id} and seen[0]["status"] == "submitted"
    watching.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(watching.wait(), WITHIN_S) == ExitStatus.INTERRUPTED
    assert await watching.stderr.read() == b""


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, process: asyncio.subprocess.Process, terminal: int) -> None:
        self._process = process
        self._terminal = terminal
        self._said = bytearray()

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    async def until(self, words: str, *, again: str = "") -> None:
        """Wait until it shows ``words`` after those that were waited for before.

        ``again``: typed every two seconds until then.
        """
        loop = asyncio.get_running_loop()
        deadline, type_at = loop.time() + WITHIN_S, loop.time()
        while words.encode() not in self._said:
            assert loop.time() < deadline, f"no {words!r} in {bytes(self._said)!r}"
            if again and loop.time() >= type_at:
                type_at = loop.time() + 2.0
                self.type(again)
            ready, _, _ = await asyncio.to_thread(select.select, [self._terminal], [], [], 0.5)
            self._said.extend(os.read(self._terminal, 4096) if ready else b"")
        del self._said[: self._said.index(words.encode()) + len(words)]

    async def status(self) -> int:
        return await asyncio.wait_for(self._process.wait(), WITHIN_S)


@asynccontextmanager
async def on_a_terminal(*arguments: str) -> AsyncIterator[Terminal]:
    terminal, side = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *("setsid", "--ctty", sys.executable, "-m", "wan_serve.commands", *arguments),
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "160", "LINES": "40"},
        stdin=side,
        stdout=side,
        stderr=side,
    )
    os.close(side)
    try:
        yield Terminal(process, terminal)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(terminal)


@pytest.mark.slow
async def test_ctrl_c_asks_once_whether_to_cancel(service: HttpService, url: str) -> None:
    async with on_a_terminal("submit", "a red ball", "--wait") as terminal:
        await terminal.until("waiting, number 1 in the queue")
        terminal.type("\x03")
        await terminal.until("Cancel the task ")
        terminal.type("y\n")
        assert await terminal.status() == ExitStatus.CANCELLED
    (task,) = (await service.client.get("/v1/tasks")).json()["tasks"]
    assert task["status"] == "cancelled"


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["\x03", "n\n"])
async def test_a_second_ctrl_c_leaves_and_the_task_goes_on(
    service: HttpService, url: str, answer: str
) -> None:
    async with on_a_terminal("submit", "a red ball", "--wait") as terminal:
        await terminal.until("waiting, number 1 in the queue")
        terminal.type("\x03")
        await terminal.until("Cancel the task ")
        if answer == "n\n":
            terminal.type(answer)
            await terminal.until("waiting, number 1 in the queue")
            terminal.type("\x03")
            await terminal.until(LEFT)
        else:
            # Of a signal that comes just before it blocks in input(), Python hears with the next one.
            await terminal.until(LEFT, again=answer)
        assert await terminal.status() == ExitStatus.INTERRUPTED
    (task,) = (await service.client.get("/v1/tasks")).json()["tasks"]
    assert task["status"] == "submitted"


@pytest.mark.slow
async def test_watch_draws_the_queue_and_the_replicas(service: HttpService, url: str) -> None:
    await service.add_replica()
    await service.submit(prompt="a red ball\x1b]0;title\x07")
    async with on_a_terminal("watch") as terminal:
        await terminal.until("cpu ready")
        await terminal.until(r"a red ball\x1b]0;title\x07")
        await service.publish(await service.claim())
        await terminal.until("succeed")
        terminal.type("\x03")
        assert await terminal.status() == ExitStatus.INTERRUPTED


def test_the_commands_of_a_client_load_neither_torch_nor_ray_nor_the_service() -> None:
    script = (
        "import sys, wan_serve.commands.commands\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert {"typer", "rich", "httpx"} <= loaded
    assert not loaded & {"torch", "ray", "serve_app", "models", "numpy", "fastapi", "pydantic"}
