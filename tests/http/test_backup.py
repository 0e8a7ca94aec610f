"""A backup of a running service, by the commands of the docs, and a service that goes on from it."""

import re
import subprocess
import sys
from pathlib import Path

from serve_app.tasks.caller import EVERYONE
from serve_app.tasks.transitions import Status
from tests.http.http_service import VIDEO, HttpService, running, settings

PAGE = Path(__file__).parents[2] / "docs/operations/backup.md"


def commands(number: int) -> str:
    """Return a block of commands of the page, with this Python in place of the checkout's."""
    block = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)[number]
    return f"set -eu\n{block}".replace(".venv/bin/python", sys.executable)


async def test_a_service_goes_on_from_a_backup_that_was_taken_while_it_ran(
    service: HttpService, folder: Path
) -> None:
    done = await service.finished()
    ran = (await service.submit(seed=1))["task_id"]
    await service.claim()
    waits = (await service.submit(seed=2))["task_id"]
    async with service.database.write() as connection:  # a transaction that is open while the backup is taken
        await connection.exec_driver_sql("DELETE FROM tasks")
        subprocess.run(["bash", "-c", commands(0)], cwd=folder, check=True)
        await connection.rollback()
    assert await service.claim()  # the service goes on, and is lost with what it does from here on
    await service.database.close()
    subprocess.run(["bash", "-c", commands(1)], cwd=folder, check=True)
    async with running(settings(folder)) as restored:
        assert (await restored.client.get(f"/v1/tasks/{done}/result")).content == VIDEO
        tasks = {task.id: task.status for task in await restored.store.list(EVERYONE, limit=9)}
        assert tasks == {done: Status.SUCCEEDED, ran: Status.RUNNING, waits: Status.QUEUED}
        assert (await restored.claim()).id == waits
