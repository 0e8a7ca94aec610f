"""The Python client against the real service, over a socket; its twin for asyncio is the same code."""

import ast
import asyncio
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit
from zipfile import ZipFile

import pytest
import pytest_asyncio

from serve_app.tasks.task import TaskError as Failure
from testbed.tcp_proxy import TcpProxy
from tests.contract.tasks import at
from tests.http.http_service import VIDEO, HttpService, listening_at, png, running, settings
from wan_serve.async_client import AsyncClient
from wan_serve.client import Client
from wan_serve.errors import Refused, TaskCancelled, TaskFailed, Unreachable
from wan_serve.task import Task

ROOT = Path(__file__).parents[2]


@pytest_asyncio.fixture
async def url(service: HttpService) -> AsyncIterator[str]:
    async with listening_at(service) as url:
        yield url


async def until_queued(service: HttpService) -> None:
    """Wait until a task waits to be claimed."""
    async with asyncio.timeout(30):
        while not service.nudges:
            await asyncio.sleep(0.01)


async def test_a_video_is_generated_and_saved(service: HttpService, url: str, tmp_path: Path) -> None:
    seen: list[Task] = []
    videos = tmp_path / "videos"
    videos.mkdir()

    def generate() -> Path:
        with Client(url) as client:
            video = client.generate("a red ball", image=png(), seed=7, steps=4, on_progress=seen.append)
            assert video.task.seed == 7 and video.task.total_steps == 4
            return video.save(videos / "ball.mp4")

    generating = asyncio.create_task(asyncio.to_thread(generate))
    await until_queued(service)
    task = await service.claim()
    await service.ledger.report(task.uid, task.attempt, at(2, 0.5))
    await service.publish(task)
    saved = await generating
    assert task.spec.image_key is not None
    assert saved.read_bytes() == VIDEO
    assert [*videos.iterdir()] == [saved]
    assert seen[-1].status == "succeed" and seen[-1].progress == 1.0
    assert [task.progress for task in seen] == sorted(task.progress for task in seen)


async def test_the_client_for_asyncio_does_the_same(service: HttpService, url: str, tmp_path: Path) -> None:
    async with AsyncClient(url) as client:
        generating = asyncio.create_task(client.generate("a red ball"))
        await until_queued(service)
        await service.publish(await service.claim())
        saved = await (await generating).save(tmp_path / "ball.mp4")
    assert saved.read_bytes() == VIDEO


async def test_tasks_that_end_without_a_video_raise(service: HttpService, url: str) -> None:
    async with AsyncClient(url) as client:
        failing = asyncio.create_task(client.generate("a red ball"))
        await until_queued(service)
        task = await service.claim()
        await service.ledger.fail(task.uid, task.attempt, Failure("model_error", "The model failed."))
        with pytest.raises(TaskFailed, match="The model failed") as failed:
            await failing
        assert failed.value.task.error is not None and failed.value.task.error.code == "model_error"
        cancelled = await client.cancel(await client.submit("a blue ball"))
        with pytest.raises(TaskCancelled):
            (await client.wait(cancelled)).require_video()


async def test_a_refusal_says_which_field_is_at_fault(url: str) -> None:
    async with AsyncClient(url) as client:
        with pytest.raises(Refused, match=r"infer_steps: must be") as refused:
            await client.submit("a red ball", steps=0)
        assert (refused.value.status, refused.value.code, refused.value.field) == (
            422,
            "invalid_field",
            "infer_steps",
        )
        with pytest.raises(Refused) as missing:
            await client.task("none")
        assert missing.value.code == "task_not_found"
        with pytest.raises(ValueError, match="no task id"):
            await client.cancel("all")


@pytest.mark.slow
async def test_a_full_queue_is_waited_for_as_long_as_it_asks(service: HttpService, url: str) -> None:
    async with AsyncClient(url, retries=0) as client:
        for _ in range(5):
            await client.submit("a red ball")
        with pytest.raises(Refused) as full:
            await client.submit("a red ball")
    assert full.value.code == "queue_full" and full.value.retry_after_s is not None
    async with AsyncClient(url) as client:
        waiting = asyncio.create_task(client.submit("the sixth"))
        await service.publish(await service.claim())
        assert (await asyncio.wait_for(waiting, 60)).status == "submitted"


@pytest.mark.slow
async def test_what_breaks_is_taken_up_again_and_makes_no_second_task(
    service: HttpService, url: str, tmp_path: Path
) -> None:
    port = urlsplit(url).port
    assert port is not None
    with TcpProxy(("127.0.0.1", port)) as proxy:
        async with AsyncClient(f"http://127.0.0.1:{proxy.port}") as client:
            proxy.slow(0.5)
            submitting = asyncio.create_task(client.submit("a red ball"))
            await until_queued(service)
            proxy.cut()  # the task is there, and its answer still under way
            async with asyncio.timeout(30):
                while not proxy.refused:
                    await asyncio.sleep(0.01)
            proxy.mend()
            submitted = await submitting
            assert [task.id for task in (await client.tasks()).tasks] == [submitted.id]

            seen: list[Task] = []
            waiting = asyncio.create_task(client.wait(submitted, on_progress=seen.append))
            async with asyncio.timeout(30):
                while not seen:
                    await asyncio.sleep(0.01)
            proxy.cut()
            await service.publish(await service.claim())
            proxy.mend()
            assert (await waiting).status == "succeed"
            saved = await client.download(submitted, tmp_path / "ball.mp4")
    assert saved.read_bytes() == VIDEO


async def test_a_queue_is_worked_with(service: HttpService, url: str) -> None:
    async with AsyncClient(url) as client:
        first, second = await client.submit("a red ball"), await client.submit("a blue ball")
        assert (await client.put_next(second)).queue_position == 1
        assert (await client.set_priority(first, 5)).priority == 5
        await client.pause()
        assert (await client.task(first.id)).queue_position is None
        await client.resume()
        repeated = await client.again(first.id, seed=3)
        assert repeated.seed == 3
        page = await client.tasks(limit=2)
        assert [task.id for task in page.tasks] == [repeated.id, second.id] and page.has_more
        rest = await client.tasks(after=page.tasks[-1].id)
        assert [task.id for task in rest.tasks] == [first.id] and not rest.has_more
        (model,) = await client.models()
        assert model.name == "demo" and "i2v" in model.tasks


async def test_a_key_is_sent_and_never_shown(folder: Path) -> None:
    keys = [{"name": "ann", "sha256": hashlib.sha256(b"k" * 20).hexdigest()}]
    async with running(settings(folder, keys=keys)) as service, listening_at(service) as url:
        async with AsyncClient(url, api_key="k" * 20) as client:
            assert (await client.submit("a red ball")).status == "submitted"
        async with AsyncClient(url, api_key="wrong") as client:
            with pytest.raises(Refused) as refused:
                await client.tasks()
    assert refused.value.code == "unauthorized" and "wrong" not in str(refused.value)


async def test_no_service_and_another_one_are_told(url: str) -> None:
    with TcpProxy(("127.0.0.1", 1)) as proxy:
        proxy.cut()
        async with AsyncClient(f"http://127.0.0.1:{proxy.port}", retries=0) as client:
            with pytest.raises(Unreachable, match=r"No service answers at http://127\.0\.0\.1"):
                await client.tasks()
    async with AsyncClient(f"{url}/lightx2v", retries=0) as client:
        with pytest.raises(Unreachable, match="is no Wan Serve of this version"):
            await client.tasks()


def test_both_clients_are_the_same_code() -> None:
    """The words of asyncio taken out of one, the other is left."""
    words = {
        r"async |await ": "",
        r"Async(Client|Video|Iterator)": r"\1",
        r"\ba(iter_lines|iter_bytes|read)\b": r"\1",
        r"aclose": "close",
        r"__a(enter|exit)__": r"__\1__",
        r"asyncio\.sleep": "time.sleep",
    }
    asynchronous, synchronous = (
        (ROOT / f"wan_serve/{name}.py").read_text() for name in ("async_client", "client")
    )
    for word, instead in words.items():
        asynchronous = re.sub(word, instead, asynchronous)

    def code(text: str) -> list[str]:
        module = ast.parse(text)
        for node in ast.walk(module):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Module) and ast.get_docstring(node):
                node.body = node.body[1:]
        return [
            ast.unparse(node) for node in module.body if not isinstance(node, ast.Import | ast.ImportFrom)
        ]

    assert code(asynchronous) == code(synchronous)


def test_the_client_needs_httpx_alone() -> None:
    script = (
        "import sys, httpx\n"
        "before = {name.partition('.')[0] for name in sys.modules}\n"
        "import wan_serve.client, wan_serve.async_client\n"
        "after = {name.partition('.')[0] for name in sys.modules}\n"
        "print(*sorted(after - before - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["wan_serve"]


@pytest.mark.slow
def test_the_package_of_the_client_holds_it_whole_and_nothing_else(tmp_path: Path) -> None:
    shutil.copytree(
        ROOT / "client", tmp_path / "client", ignore=shutil.ignore_patterns("build", "*.egg-info")
    )
    shutil.copytree(ROOT / "wan_serve", tmp_path / "wan_serve", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "./client"]
    subprocess.run(command, cwd=tmp_path, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = (path for path in (tmp_path / "wan_serve").rglob("*") if path.is_file())
    assert names == {path.relative_to(tmp_path).as_posix() for path in files}
