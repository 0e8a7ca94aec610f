"""A task is read back as it was submitted, whichever version wrote its row."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest
from sqlalchemy import select, text

from models.video_spec import LoraUse
from serve_app.files.local_artifacts import LocalArtifacts
from serve_app.files.output_paths import OutputPaths
from serve_app.replica.run import Outcome, Run
from serve_app.store.database import Database
from serve_app.store.run_ledger import RunLedger
from serve_app.store.tables import TASKS
from serve_app.store.task_store import TaskStore
from serve_app.tasks.caller import EVERYONE
from serve_app.tasks.continuation import Continuation
from serve_app.tasks.task import TaskSpec
from serve_app.tasks.transitions import Status
from serve_app.tasks.video_output import Codec, VideoFormat, VideoOutput
from testbed.paced_engine import PacedEngine
from tests.contract.tasks import ADMISSION, SPEC, Direct, new

OLD_SPEC = {
    "prompt": "a cat",
    "negative_prompt": "blurry",
    "width": 64,
    "height": 48,
    "num_frames": 25,
    "fps": 16,
    "steps": 4,
    "guidance_scale": 5.0,
    "guidance_scale_2": None,
    "flow_shift": 5.0,
    "seed": 1,
    "image_key": None,
    "last_image_key": None,
    "num_fragments": 3,
    "lora_name": "clay",
    "lora_strength": 0.5,
    "fragment_frames": 9,
}
"""A spec as the version before this one wrote it: ``num_frames`` counts the frames of all fragments."""
OLD_REQUEST = {"prompt": "a cat", "num_fragments": 3}
OLD_ROW = text("""
INSERT INTO tasks (uid, id, status, model, spec, work, tokens, priority, owner, notes, request, save_path,
                   digest, attempt, attempts_left, step, progress, created_at, timings)
VALUES ('u1', 't1', 'queued', 'demo', :spec, 12.5, 8, 0, '', '[]', :request, 'outputs/x.mp4',
        '', 0, 3, 0, 0.0, 1700000000.5, '{}')
""")
SPEC_OF_IT = TaskSpec(
    "a cat",
    "blurry",
    64,
    48,
    9,
    16,
    4,
    5.0,
    5.0,
    1,
    loras=(LoraUse("clay", 0.5),),
    num_fragments=3,
    video_frames=25,
)


async def write_old_row(database: Database, **more: Any) -> None:
    values = {"spec": json.dumps({**OLD_SPEC, **more}), "request": json.dumps(OLD_REQUEST)}
    async with database.write() as connection:
        await connection.execute(OLD_ROW, values)


async def kept(database: Database, uid: str) -> Any:
    async with database.read() as connection:
        query = select(TASKS.c.spec, TASKS.c.request).where(TASKS.c.uid == uid)
        return (await connection.execute(query)).one()


async def test_a_queued_task_of_the_version_before_is_read_and_runs(
    database: Database, store: TaskStore, ledger: RunLedger, tmp_path: Path
) -> None:
    await write_old_row(database)
    task = await ledger.claim("demo", "r", loras=["clay"])
    assert task is not None and (task.spec, task.request) == (SPEC_OF_IT, OLD_REQUEST)
    artifacts = LocalArtifacts(OutputPaths(tmp_path / "outputs"), tmp_path)
    run = Run(task, PacedEngine(step_s=0), artifacts, Direct(ledger), heartbeat_s=1.0, step_timeout_s=30.0)
    with ThreadPoolExecutor(1) as engine, ThreadPoolExecutor(1) as files:
        assert await run.finish(await run.generate(engine, files), files) is Outcome.PUBLISHED
    ended = await store.get(EVERYONE, "t1")
    assert ended.status is Status.SUCCEEDED and ended.artifact is not None
    frames, _ = imageio_ffmpeg.count_frames_and_secs(str(artifacts.path_of(ended.artifact)))
    assert frames == ended.spec.total_frames == 25


async def test_a_key_of_a_later_version_is_ignored(database: Database, store: TaskStore) -> None:
    await write_old_row(database, colour_space="bt2020")
    assert (await store.get(EVERYONE, "t1")).spec == SPEC_OF_IT


async def test_the_row_is_spelt_as_the_version_before_reads_it(database: Database, store: TaskStore) -> None:
    await store.submit(new("a", spec=SPEC_OF_IT), ADMISSION)
    assert (await kept(database, "uid-a")).spec == OLD_SPEC


@pytest.mark.parametrize(
    "loras",
    [
        (),
        (LoraUse("clay", 0.5),),
        (LoraUse("clay", 0.5, 0.0),),
        (LoraUse("clay"), LoraUse("ink", -1.0, 2.0)),
    ],
)
async def test_a_spec_is_read_back_as_it_was_submitted(store: TaskStore, loras: tuple[LoraUse, ...]) -> None:
    spec = replace(SPEC, loras=loras, image_key="inputs/t-a/image.png")
    await store.submit(new("a", spec=spec), ADMISSION)
    assert (await store.get(EVERYONE, "a")).spec == spec


async def test_the_form_of_a_file_and_the_prompts_of_fragments_are_read_back(store: TaskStore) -> None:
    for name, output in (
        ("a", VideoOutput(VideoFormat.WEBM, Codec.AV1, 30)),
        ("b", VideoOutput(VideoFormat.PNG_ZIP, return_last_frame=True)),
    ):
        spec = replace(SPEC, output=output, num_fragments=2, video_frames=9, fragment_prompts=("a", "b"))
        if name == "b":
            spec = replace(
                spec, num_fragments=1, continues=Continuation(9, 1, (5, 9), "inputs/t-a/earlier.mp4")
            )
        await store.submit(new(name, spec=spec), ADMISSION)
        assert (await store.get(EVERYONE, name)).spec == spec


async def test_a_prompt_stands_once_in_a_row_and_is_shown_again_where_it_was(
    database: Database, store: TaskStore
) -> None:
    sent = {"seed": 1, "prompt": SPEC.prompt, "task_id": "a"}
    task = await store.submit(new("a", request=sent), ADMISSION)
    row = await kept(database, "uid-a")
    assert SPEC.prompt not in json.dumps(row.request) and row.spec["prompt"] == SPEC.prompt
    for seen in (task, await store.get(EVERYONE, "a")):
        assert list(seen.request.items()) == list(sent.items())


@pytest.mark.parametrize("sent", [{}, {"prompt": "another"}, {"prompt": " a cat "}])
async def test_a_request_with_another_prompt_or_none_is_kept_as_it_is(
    store: TaskStore, sent: dict[str, str]
) -> None:
    assert (await store.submit(new("a", request=sent), ADMISSION)).request == sent
    assert (await store.get(EVERYONE, "a")).request == sent
