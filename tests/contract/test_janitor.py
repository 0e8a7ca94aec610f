"""The janitor deletes what nobody needs any more, and nothing else."""

from pathlib import Path

from serve_app.coordinator.janitor import Janitor
from serve_app.files.local_artifacts import LocalArtifacts
from serve_app.files.output_paths import OutputPaths
from serve_app.store.database import Database
from serve_app.store.delivery_ledger import DeliveryLedger
from serve_app.store.fleet import Fleet
from serve_app.store.run_ledger import RunLedger
from serve_app.store.task_store import TaskStore
from serve_app.tasks.caller import EVERYONE
from tests.contract.tasks import ADMISSION, claimed, new

NAME = "1-0-2.safetensors"


async def test_checkpoints_go_with_the_end_of_their_task(
    database: Database, store: TaskStore, ledger: RunLedger, tmp_path: Path
) -> None:
    paths = OutputPaths(tmp_path / "outputs")
    artifacts = LocalArtifacts(paths, tmp_path / "data")
    deliveries, fleet = DeliveryLedger(database, ledger.epoch), Fleet(database)
    janitor = Janitor(
        store, ledger, deliveries.forget, fleet, artifacts, paths, retention_s=60, silence_s=60, period_s=60
    )
    running = (await claimed(store, ledger)).uid
    waiting = (await store.submit(new("waiting"), ADMISSION)).uid
    cancelled = (await store.submit(new("cancelled"), ADMISSION)).uid
    await store.cancel(EVERYONE, "cancelled")
    for uid in (running, waiting, cancelled, "unknown"):
        artifacts.put_checkpoint(uid, NAME, b"")
    await janitor.sweep()
    assert set(artifacts.task_ids_with_checkpoints()) == {running, waiting}
