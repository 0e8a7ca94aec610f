"""The janitor deletes what nobody needs any more, and nothing else."""

from pathlib import Path

from serve_app.coordinator.janitor import Janitor
from serve_app.files.artifact_stores import open_artifacts
from serve_app.store.database import Database
from serve_app.store.delivery_ledger import DeliveryLedger
from serve_app.store.fleet import Fleet
from serve_app.store.run_ledger import RunLedger
from serve_app.store.task_store import TaskStore
from serve_app.tasks.caller import EVERYONE
from tests.contract.tasks import ADMISSION, claimed, new
from tests.http.http_service import settings

NAME = "1-0-2.safetensors"


async def test_checkpoints_go_with_the_end_of_their_task(
    database: Database, store: TaskStore, ledger: RunLedger, tmp_path: Path
) -> None:
    rules = settings(tmp_path)
    artifacts = open_artifacts(rules)
    deliveries = DeliveryLedger(database, ledger.epoch)
    janitor = Janitor(rules, database, ledger, Fleet(database), artifacts, deliveries.forget)
    running = (await claimed(store, ledger)).uid
    waiting = (await store.submit(new("waiting"), ADMISSION)).uid
    cancelled = (await store.submit(new("cancelled"), ADMISSION)).uid
    await store.cancel(EVERYONE, "cancelled")
    for uid in (running, waiting, cancelled, "unknown"):
        artifacts.put_checkpoint(uid, NAME, b"")
    await janitor.sweep()
    assert set(artifacts.task_ids_with_checkpoints()) == {running, waiting}
