"""Work of test_hostile_videos.py in a process of its own: sends each video of a folder to the service.

Prints a line of JSON: each video's answer, and the most memory that this process and any child of it held.
"""

import asyncio
import json
import resource
import sys
from pathlib import Path

from serve_app.store.database import Database
from testbed.hostile_videos import BENIGN
from tests.http.http_service import HttpService, running, settings

_FIELDS = {"prompt": "a red ball", "num_frames": "5"}


async def main(folder: Path, videos: Path) -> None:
    """Send the benign video first, then all others."""
    (folder / "data").mkdir()
    database = Database(f"sqlite+aiosqlite:///{folder / 'data' / 'tasks.db'}")
    await database.migrate()
    await database.close()
    async with running(settings(folder)) as service:
        answers = {BENIGN: await _answer(service, videos / BENIGN)}
        before = _peak_mb(resource.RUSAGE_SELF)
        for video in sorted(videos.iterdir()):
            if video.name != BENIGN:
                answers[video.name] = await _answer(service, video)
        left = [path.name for path in service.settings.inputs.rglob("*") if path.is_file()]
    own = _peak_mb(resource.RUSAGE_SELF) - before
    child = _peak_mb(resource.RUSAGE_CHILDREN)
    print(json.dumps({"answers": answers, "left": left, "own_mb": own, "child_mb": child}))


async def _answer(service: HttpService, video: Path) -> tuple[int, str | None]:
    files = {"continue_from_file": (video.name, video.read_bytes())}
    response = await service.client.post("/v1/tasks/video/form", data=_FIELDS, files=files)
    return response.status_code, response.json().get("code")


def _peak_mb(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / 1000


if __name__ == "__main__":
    asyncio.run(main(*map(Path, sys.argv[1:])))
