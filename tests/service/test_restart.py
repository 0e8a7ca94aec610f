"""Stops of a whole service, each before a new start: no acknowledged task is lost, changed or done twice.

The tests go on with one service, in this order: every start takes longer than all else here.
"""

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from tempfile import gettempdir

import httpx
import psutil
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from testbed.cluster import free_port, paced
from testbed.drill.faults import Faults
from testbed.launched import ROOT, Launched
from testbed.service import HTTP, Service, wait_for
from tests.needed import needed
from tests.web.web_service import chromium

SMALL = {"width": 64, "height": 64, "num_frames": 5, "infer_steps": 2}
LONG = {**SMALL, "infer_steps": 100}
MAX_ATTEMPTS = 2
"""A run that is cut off twice fails, one that is handed back twice does not."""

NOTE_CONNECTION = """() => {
    const connection = document.querySelector("#connection");
    window.said = [];
    new MutationObserver(() => window.said.push(connection.textContent))
        .observe(connection, {childList: true, characterData: true, subtree: true});
}"""
DEADLINE_S = 120
RULES = {"lease_s": 6.0, "heartbeat_s": 1.0, "max_attempts": MAX_ATTEMPTS, "drain_s": 6.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("launched")


@pytest.fixture(scope="module")
def launched(folder: Path) -> Iterator[Launched]:
    options = {"step_s": 0.2, "releases": str(folder)}
    model = paced(0.2, replicas=2, cpus_per_replica=0.1, options=options)
    with Launched(folder, free_port(), models=[model], tasks=RULES) as launched:
        launched.start()
        yield launched


@pytest.fixture(scope="module")
def page(launched: Launched) -> Iterator[Page]:
    """The service's page in a browser, which notes all that it says of its connection."""
    path = needed(chromium(), "Chromium", "Debian's package chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(launched.service.url)
        page.evaluate(NOTE_CONNECTION)
        yield page
        browser.close()


def test_the_page_shows_a_service_that_has_made_nothing(page: Page) -> None:
    expect(page.locator("#model option")).to_have_count(1, timeout=DEADLINE_S * 1000)
    expect(page.locator(".tile-title")).to_have_count(0)


def configurations(service: Service) -> list[Path]:
    """The temporary files by which the service was deployed."""
    port = f"port: {httpx.URL(service.url).port}\n"
    return [file for file in Path(gettempdir()).glob("wan-serve-*.yaml") if port in text(file)]


def text(file: Path) -> str:
    with suppress(FileNotFoundError):  # another service's, which it needs no more
        return file.read_text()
    return ""


@pytest.mark.timeout(600)
def test_a_service_killed_whole_goes_on_where_it_was(launched: Launched, folder: Path) -> None:
    service = launched.service
    done = service.submit(**SMALL)
    service.until(done, "succeed")
    video = service.result(done)
    cancelled = service.submit(**LONG)
    service.cancel(cancelled)
    running = [service.submit(prompt=f"[[pace:{number}]]", **LONG) for number in range(2)]
    for task_id in running:
        service.until(task_id, "running", step=3)
    queued = service.submit(**SMALL)

    launched.kill(but="haproxy")  # which would hold the port for ever
    assert not configurations(service)
    for number in range(2):
        (folder / str(number)).touch()
    launched.start(whole=True)  # for the next test, of all that listens
    assert re.search(r"earlier service, which was killed, are ended: .*haproxy", launched.output)

    assert service.status(done)["status"] == "succeed"
    assert service.status(cancelled)["status"] == "cancelled"
    for task_id in running:
        assert service.until(task_id, "succeed")["attempt"] == 2
    assert service.until(queued, "succeed")["attempt"] == 1
    assert service.result(done) == video
    listed = service.get("/v1/tasks")["tasks"]
    assert [task["task_id"] for task in listed] == [queued, *reversed(running), cancelled, done]


def test_the_page_went_on_through_the_kill_without_a_reload(launched: Launched, page: Page) -> None:
    made = [task for task in launched.service.get("/v1/tasks")["tasks"] if task["status"] == "succeed"]
    titles = page.locator(".tile-title")
    expect(titles).to_have_text([task["prompt"] for task in made], timeout=DEADLINE_S * 1000)
    assert {task["attempt"] for task in made} == {1, 2}, "what ran then is among them"
    expect(page.locator("#connection")).to_be_empty()
    assert any("No connection" in said for said in page.evaluate("window.said"))


def test_a_service_of_this_machine_listens_there_alone_and_where_the_docs_say(launched: Launched) -> None:
    page = (ROOT / "SECURITY.md").read_text().partition("## What listens where")[2].partition("\n## ")[0]
    told = set(re.findall(r"^\| `([^`]+)`", page, re.M))
    found: set[str] = set()
    for process in launched.tree():
        with suppress(psutil.NoSuchProcess):  # as a worker that was not needed
            title = " ".join(process.cmdline())
            assert "log_monitor" not in title  # which nobody listens to
            for connection in process.net_connections("tcp"):
                if connection.status != psutil.CONN_LISTEN:
                    continue
                assert connection.laddr.ip.removeprefix("::ffff:") == "127.0.0.1", (title, connection)
                names = [name for name in told if name in title]
                assert names, f"SECURITY.md does not say that {title} listens"
                found.update(names)
    others = {"haproxy", "ray/dashboard", "ray::ServeController", "ray::ServeReplica", "raylet"}
    assert found >= {"gcs_server", *others}


def test_a_second_service_on_the_same_folder_does_not_start(launched: Launched, tmp_path: Path) -> None:
    second = Launched(tmp_path, free_port(), data_dir=str(launched.service.data_dir), models=[paced(0.2)])
    with second, pytest.raises(AssertionError, match=r"Another service, process \d+, runs on .*, and SQLite"):
        second.start()


@pytest.mark.timeout(600)
def test_a_service_that_is_stopped_lets_short_runs_end_and_hands_long_ones_back(
    launched: Launched, folder: Path
) -> None:
    service = launched.service
    long = service.submit(prompt="[[pace:long]]", **LONG)
    short = service.submit(prompt="[[pace:short]]", **LONG)
    queued = service.submit(**SMALL)
    service.until(long, "running")
    service.until(short, "running")

    launched.signal(group=True)
    wait_for(lambda: _submit(service).status_code == 503, DEADLINE_S, lambda: "submits are still taken")
    refused = _submit(service)
    assert refused.json()["code"] == "draining" and int(refused.headers["Retry-After"]) > 0
    assert service.status(short)["status"] == "running"
    (folder / "short").touch()
    assert launched.ended() == 0
    assert left_of(service, long) == ("queued", MAX_ATTEMPTS)

    launched.start("--json", "--no-dashboard", whole=True)
    assert not [each for each in launched.tree() if "ray-dashboard" in " ".join(each.cmdline())]
    ended = service.status(short)
    assert (ended["status"], ended["attempt"]) == ("succeed", 1)
    assert service.result(short)[4:8] == b"ftyp"
    service.until(queued, "succeed")
    service.until(long, "running")
    wait_for(lambda: goes_on(service, long), DEADLINE_S, lambda: f"it began anew: {service.status(long)}")

    faults = Faults(launched, Random(1))
    assert faults.kill("ray::ServeReplica:wan-serve:coordinator") and faults.kill("ray::ServeController")
    launched.signal(group=True)
    launched.signal(group=True)  # which has the coordinator that comes next hand back at once
    assert launched.ended() == 0
    # Handed back, unless it ended before that coordinator came.
    assert left_of(service, long) in {("queued", MAX_ATTEMPTS), ("succeeded", MAX_ATTEMPTS - 1)}
    # A replica may have claimed it ahead of its turn: then it ran, or was handed back, before the first stop.
    assert left_of(service, queued) == ("succeeded", MAX_ATTEMPTS - 1)
    assert "[[pace" not in launched.output, "prompts stay out of what is printed"
    told = [json.loads(line) for line in launched.output.splitlines() if line.startswith("{")]
    assert [each["event"] for each in told][:2] == ["ready", "draining"]
    assert told[0]["url"] == service.url


@pytest.mark.parametrize(("begun", "group"), [("raylet", True), ("ServeController", False)])
def test_a_service_that_is_stopped_while_it_starts_leaves_nothing(
    launched: Launched, begun: str, group: bool
) -> None:
    launched.begin(until=begun)
    launched.signal(group=group)
    assert launched.ended() == 0
    assert "Traceback" not in launched.output


def goes_on(service: Service, task_id: str) -> bool:
    """Return whether the task's notes say that it was taken up where it was handed back."""
    return any("went on from step" in note for note in service.status(task_id)["notes"])


def left_of(service: Service, task_id: str) -> tuple[str, int]:
    """Return the state and the attempts left of a task of a service that has stopped."""
    with closing(sqlite3.connect(service.data_dir / "tasks.db")) as database:
        query = "SELECT status, attempts_left FROM tasks WHERE id = ?"
        status, left = database.execute(query, (task_id,)).fetchone()
    return status, left


def _submit(service: Service) -> httpx.Response:
    return HTTP.post(f"{service.url}/v1/tasks/video", json={"prompt": "a cat", **SMALL})


def test_a_configuration_with_an_unknown_key_does_not_start(tmp_path: Path) -> None:
    launched = Launched(tmp_path, free_port(), models=[paced(0.2)], task={"lease_s": 6.0})
    with (
        launched,
        pytest.raises(
            AssertionError, match=r"args\.task: is not a setting; did you mean tasks\? allowed here: data_dir"
        ),
    ):
        launched.start()
