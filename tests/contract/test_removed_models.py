"""Tasks of models and LoRAs that were taken out of the configuration end, or are made by a successor."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.video_spec import LoraUse
from serve_app.config.settings import AppSettings, TaskSettings
from serve_app.coordinator.removed_models import RemovedModels
from serve_app.store.database import Database
from serve_app.store.outbox import Outbox
from serve_app.store.run_ledger import RunLedger
from serve_app.store.task_store import TaskStore
from serve_app.tasks.caller import EVERYONE
from serve_app.tasks.task import Task
from serve_app.tasks.transitions import Status
from serve_app.tasks.webhook import Callback, EventType
from tests.contract.tasks import ADMISSION, SPEC, new
from tests.contract.test_services import LEASE_S, Clock, start

DAY_S = 86_400.0
RULES = TaskSettings(removed_after_s=2 * DAY_S)
FITTING = replace(SPEC, width=96)
"""A video that the demo model makes as it is."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.time", clock)
    return clock


def removed(
    database: Database, ledger: RunLedger, folder: Path, settled: list[Task] | None = None, **demo: Any
) -> RemovedModels:
    """Return what looks after removed models in a service that has the demo model alone."""
    models = [{"name": "demo", "variant": "demo", "weights": folder, **demo}]
    settings = AppSettings.model_validate({"data_dir": folder, "models": models})
    told = [] if settled is None else settled
    return RemovedModels(database, ledger, settings.models, RULES, told.append)


def warnings(caplog: pytest.LogCaptureFixture) -> Sequence[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


async def test_tasks_of_a_removed_model_wait_for_it_then_fail_and_the_log_says_so_once(
    database: Database, store: TaskStore, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    ledger, settled = await start(database, "a"), list[Task]()
    callback = Callback("https://example.com/")
    ours = await store.submit(new("ours"), ADMISSION)
    await store.submit(new("theirs", model="old", callback=callback), ADMISSION)
    looking = removed(database, ledger, tmp_path, settled)
    for _ in range(2):
        await looking.look()
    (line,) = warnings(caplog)
    assert line.startswith("1 tasks wait for the model old, which is not configured any more: they fail once")
    clock.now += 2 * DAY_S - 1
    await looking.look()
    assert (await store.get(EVERYONE, "theirs")).status is Status.QUEUED and not settled
    clock.now += 1
    await looking.look()
    failed = await store.get(EVERYONE, "theirs")
    assert failed.error is not None and failed.error.code == "model_removed"
    assert failed.error.message == "The model old is not served any more"
    assert failed.finished_at == clock.now and settled == [failed]
    assert [each.type for each in (await Outbox(database).of([failed]))[failed.uid]] == [EventType.FAILED]
    assert await store.get(EVERYONE, "ours") == ours


async def test_what_a_successor_can_make_it_makes_and_the_task_says_so(
    database: Database, store: TaskStore, tmp_path: Path
) -> None:
    ledger, settled = await start(database, "a"), list[Task]()
    await store.submit(new("theirs", model="old", spec=FITTING, notes=("One.",)), ADMISSION)
    await removed(database, ledger, tmp_path, settled, replaces=["old"]).look()
    task = await ledger.claim("demo", "r")
    assert task is not None and task.id == "theirs" and [each.uid for each in settled] == [task.uid]
    told = "The model old is not served any more; demo, which replaces it, makes the video."
    assert task.notes == ("One.", told)
    assert (task.tokens, task.work) == (12, 2 * SPEC.steps * 12)


async def test_what_a_successor_cannot_make_fails_once_no_service_has_its_model(
    database: Database, store: TaskStore, tmp_path: Path, clock: Clock
) -> None:
    older, newer = await start(database, "older"), await start(database, "newer")
    await store.submit(new("theirs", model="old", spec=replace(SPEC, width=4096)), ADMISSION)
    with_old = removed(database, older, tmp_path, name="old")
    without = removed(database, newer, tmp_path, replaces=["old"])
    for _ in range(4):  # the older service lives, and may lead again
        await with_old.look()
        await without.look()
        clock.now += RULES.janitor_period_s
        assert (await store.get(EVERYONE, "theirs")).status is Status.QUEUED
    clock.now += RULES.unnamed_s
    await without.look()
    failed = await store.get(EVERYONE, "theirs")
    said = "The model old is not served any more, and demo, which replaces it, makes no video of 4096x64 and"
    assert failed.error is not None and failed.error.message.startswith(said)


async def test_a_service_that_does_not_lead_leaves_the_tasks_of_others_alone(
    database: Database, store: TaskStore, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    older = await start(database, "older")
    await start(database, "newer")
    await store.submit(new("theirs", model="new", spec=FITTING), ADMISSION)
    assert not (await older.keep_seat(is_ready=True)).leads
    before = await store.get(EVERYONE, "theirs")
    looking = removed(database, older, tmp_path, replaces=["new"])
    await looking.look()
    assert await store.get(EVERYONE, "theirs") == before and not warnings(caplog)
    clock.now += LEASE_S + 1
    assert (await older.keep_seat(is_ready=True)).leads
    await looking.look()
    assert (await store.get(EVERYONE, "theirs")).model == "demo" and len(warnings(caplog)) == 1


async def test_the_log_and_its_tasks_name_a_lora_that_was_removed(
    database: Database, store: TaskStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "there.safetensors").touch()
    ledger = await start(database, "a")
    for names in (["there"], ["there", "gone"]):
        spec = replace(SPEC, loras=tuple(map(LoraUse, names)))
        await store.submit(new(names[-1], spec=spec), ADMISSION)
    looking = removed(database, ledger, tmp_path, lora_folder=tmp_path)
    for _ in range(2):
        await looking.look()
    (line,) = warnings(caplog)
    note = "Not in the folder any more: the LoRAs gone. Unless they come back, the task fails at its turn."
    assert line == f"1 tasks of the model demo wait. {note}"
    assert (await store.get(EVERYONE, "gone")).notes == (note,)
    assert (await store.get(EVERYONE, "there")).notes == ()
