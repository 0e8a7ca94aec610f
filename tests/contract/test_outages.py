"""The database or the bucket away for a while: refusals that say so, and everything goes on by itself."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, update

from serve_app.config.settings import AppSettings
from serve_app.errors import FileNotFound, StoreUnavailable
from serve_app.files.artifact_stores import open_artifacts
from serve_app.files.artifacts import Artifacts
from serve_app.replica.run import Outcome, Run
from serve_app.store.database import Database
from serve_app.store.run_ledger import RunLedger
from serve_app.store.tables import TASKS
from serve_app.store.task_store import TaskStore
from serve_app.tasks.caller import EVERYONE
from serve_app.tasks.transitions import Status
from testbed.paced_engine import PacedEngine
from testbed.pgbouncer import PgBouncer, program
from testbed.postgres_server import PostgresServer
from testbed.s3_server import S3Server
from testbed.tcp_proxy import TcpProxy
from tests.contract.tasks import ADMISSION, claimed, new
from tests.needed import needed
from tests.unit.run_stage import TASK, Coordinator

DEADLINE_S = 20
VIDEO = os.urandom(3_000_000)


@pytest.fixture
def to_postgres(postgres: PostgresServer) -> Iterator[TcpProxy]:
    with TcpProxy(postgres.socket) as proxy:
        yield proxy


@pytest.fixture
def address(postgres: PostgresServer, migrated_postgres: str, to_postgres: TcpProxy) -> str:
    """The address of an empty database behind the proxy."""
    url = make_url(postgres.new_database(migrated_postgres))
    url = url.set(host="127.0.0.1", port=to_postgres.port, query={})
    return url.render_as_string(hide_password=False)


@pytest.fixture
def to_bucket(s3_server: S3Server) -> Iterator[TcpProxy]:
    with TcpProxy(("127.0.0.1", s3_server.port)) as proxy:
        yield proxy


@pytest.fixture
def artifacts(s3_server: S3Server, to_bucket: TcpProxy, tmp_path: Path) -> Artifacts:
    """Artifacts in a bucket behind the proxy."""
    where: dict[str, Any] = s3_server.new_bucket()
    where["s3"] |= {"endpoint_url": f"http://127.0.0.1:{to_bucket.port}"}
    models = ({"name": "demo", "variant": "demo", "weights": "/"},)
    return open_artifacts(AppSettings.model_validate({"data_dir": tmp_path, "models": models, **where}))


async def until(condition: Any) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.slow
@pytest.mark.postgres
async def test_a_database_that_is_cut_off_or_says_nothing_is_unavailable_and_then_there_again(
    address: str, to_postgres: TcpProxy
):
    database = Database(address, patience_s=0.5)
    store = TaskStore(database)
    await store.submit(new("a"), ADMISSION)
    for number, strike in enumerate((to_postgres.cut, to_postgres.stall)):
        strike()
        for ask in (store.get(EVERYONE, "a"), store.submit(new(f"refused-{number}"), ADMISSION)):
            with pytest.raises(StoreUnavailable) as caught:
                await ask
            assert caught.value.retry_after_s >= 1
        to_postgres.mend()
        await store.submit(new(f"after-{number}"), ADMISSION)
    found = {task.id for task in await store.list(EVERYONE, limit=10)}
    assert {"a", "after-0", "after-1"} <= found  # what was refused may have been stored all the same
    await database.close()


@pytest.mark.slow
@pytest.mark.postgres
async def test_a_slow_database_answers_what_it_is_asked(address: str, to_postgres: TcpProxy):
    database = Database(address, patience_s=5)
    store = TaskStore(database)
    to_postgres.slow(0.02)
    await store.submit(new("a"), ADMISSION)
    assert (await store.get(EVERYONE, "a")).id == "a"
    await database.close()


@pytest.mark.slow
@pytest.mark.postgres
async def test_a_transaction_that_is_rolled_back_for_another_may_be_tried_again(address: str):
    database = Database(address)
    names = ("a", "b")
    for name in names:
        await TaskStore(database).submit(new(name), ADMISSION)
    have_one = asyncio.Barrier(2)

    async def change(*order: str) -> None:
        async with database.write() as connection:
            for number, name in enumerate(order):
                await connection.execute(update(TASKS).where(TASKS.c.id == name).values(priority=number))
                if not number:
                    await have_one.wait()

    ends = await asyncio.gather(change("a", "b"), change("b", "a"), return_exceptions=True)
    assert sorted(map(type, ends), key=str) == [type(None), StoreUnavailable], ends
    await database.close()


@pytest.mark.postgres
async def test_an_error_of_a_statement_is_none_of_the_connection(address: str):
    database = Database(address)
    from sqlalchemy import text
    from sqlalchemy.exc import ProgrammingError

    with pytest.raises(ProgrammingError):
        async with database.read() as connection:
            await connection.execute(text("SELECT nothing FROM nowhere"))
    await database.close()


async def test_runs_that_could_not_report_meanwhile_keep_their_tasks(database: Database, store: TaskStore):
    ledger = await RunLedger.take_lead(database, lease_s=0, grace_s=0)
    task = await claimed(store, ledger)
    await ledger.excuse(30)
    assert await ledger.expire_leases() == []
    assert (await store.get(EVERYONE, "a")).status is Status.RUNNING
    later = await RunLedger.take_lead(database, lease_s=0, grace_s=0)
    await ledger.excuse(30)  # of a coordinator that was replaced
    assert [each.uid for each in await later.expire_leases()] == [task.uid]


def run(artifacts: Artifacts, coordinator: Coordinator, patience_s: float) -> Run:
    engine = PacedEngine(step_s=0)
    return Run(TASK, engine, artifacts, coordinator, heartbeat_s=0.1, step_timeout_s=2 * patience_s)


@pytest.mark.s3
async def test_a_run_waits_for_its_bucket_and_then_publishes(artifacts: Artifacts, to_bucket: TcpProxy):
    coordinator = Coordinator()
    waiting = run(artifacts, coordinator, DEADLINE_S)
    with ThreadPoolExecutor(1) as thread, ThreadPoolExecutor(1) as files:
        generated = await waiting.generate(thread, files)
        to_bucket.cut()
        finishing = asyncio.create_task(waiting.finish(generated, files))
        await until(lambda: to_bucket.refused)
        reported = len(coordinator.reports)
        await until(lambda: len(coordinator.reports) > reported)  # it lives, and keeps its lease
        assert not coordinator.published
        to_bucket.mend()
        assert await finishing is Outcome.PUBLISHED
    (result,) = coordinator.published
    assert artifacts.find(result.artifact).size > 0


@pytest.mark.slow
@pytest.mark.s3
async def test_a_run_whose_bucket_stays_away_is_handed_back(artifacts: Artifacts, to_bucket: TcpProxy):
    coordinator = Coordinator()
    leaving = run(artifacts, coordinator, 1)
    with ThreadPoolExecutor(1) as thread, ThreadPoolExecutor(1) as files:
        generated = await leaving.generate(thread, files)
        to_bucket.cut()
        assert await leaving.finish(generated, files) is Outcome.LEFT
    assert coordinator.handed_back == [TASK.attempt]
    assert not coordinator.published and not coordinator.failures
    to_bucket.mend()
    with pytest.raises(FileNotFound):
        artifacts.find(artifacts.key(TASK.uid, TASK.attempt))


@pytest.mark.s3
async def test_a_download_goes_on_where_its_connection_broke(artifacts: Artifacts, to_bucket: TcpProxy):
    artifacts.attempt_path("a", 1).write_bytes(VIDEO)
    artifacts.store_attempt("a", 1)
    chunks = artifacts.find(artifacts.key("a", 1)).chunks(0, len(VIDEO))
    got = next(chunks)
    to_bucket.cut()
    to_bucket.mend()
    assert got + b"".join(chunks) == VIDEO


@pytest.fixture
def pooled(postgres: PostgresServer, migrated_postgres: str) -> Iterator[str]:
    """The address of an empty database behind PgBouncer in transaction mode."""
    found = needed(program(), "PgBouncer", "Debian's package pgbouncer")
    url = make_url(postgres.new_database(migrated_postgres))
    with PgBouncer(found, postgres.socket.parent, url.username or "") as pooler:
        query = {"prepared_statement_cache_size": "0"}
        url = url.set(host="127.0.0.1", port=pooler.port, query=query)
        yield url.render_as_string(hide_password=False)


@pytest.mark.postgres
async def test_a_pooler_may_give_each_transaction_another_connection(pooled: str):
    databases = [Database(pooled) for _ in range(3)]
    stores = [TaskStore(database) for database in databases]
    submits = [stores[number % 3].submit(new(f"t{number}"), ADMISSION) for number in range(24)]
    reads = [store.counts() for store in stores for _ in range(8)]
    await asyncio.gather(*submits, *reads)
    assert len(await stores[0].list(EVERYONE, limit=50)) == 24
    for database in databases:
        await database.close()


@pytest.mark.slow
@pytest.mark.postgres
def test_processes_behind_a_pooler_leave_each_other_no_statements(pooled: str):
    for _ in range(2):  # the second one would name its statements as the first did
        done = subprocess.run(
            [sys.executable, "-m", "serve_app.cli", "migrate", pooled, "--check"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
