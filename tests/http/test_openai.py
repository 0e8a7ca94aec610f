"""OpenAI's own Python client over a real socket: each method of its videos that is served, and its errors."""

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from serve_app.media.video_writer import VideoWriter
from serve_app.tasks.task import Task, TaskError
from serve_app.tasks.transitions import Status
from tests.contract.tasks import at
from tests.http.http_service import HttpService, listening_at, png, running, settings

if TYPE_CHECKING:
    import openai

# OpenAI ended its own service; its client says so at each call, and goes on working.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")]
DEADLINE_S = 30


@pytest.fixture(scope="module", autouse=True)
def load_client() -> None:
    """Load the client, which takes long, only where its tests run: every process collects all files."""
    global openai
    import openai


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A real video of 17 frames, each of another gray."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with VideoWriter(path, width=96, height=64, fps=8) as writer:
        for gray in range(17):
            writer.write(np.full((1, 64, 96, 3), 10 * gray, np.uint8))
    return path.read_bytes()


@dataclass
class Online:
    """The service on a port, and OpenAI's client of alice's key."""

    service: HttpService
    client: "openai.AsyncOpenAI"
    url: str

    def client_of(self, key: str) -> "openai.AsyncOpenAI":
        return self.client.with_options(api_key=key)

    async def claimed(self) -> Task:
        """Claim the next task, once there is one."""
        async with asyncio.timeout(DEADLINE_S):
            while not (await self.service.store.counts())[Status.QUEUED]:
                await asyncio.sleep(0.01)
        return await self.service.claim()


@pytest_asyncio.fixture
async def online(folder: Path) -> AsyncIterator[Online]:
    keys = [{"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest()} for name in ("alice", "bob")]
    limits = {"max_queued": 3}
    async with (
        running(settings(folder, keys=keys, limits=limits)) as service,
        listening_at(service) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="alice", max_retries=0) as client,
    ):
        yield Online(service, client, url)


async def test_a_video_is_made_and_polled_and_downloaded(online: Online, clip: bytes):
    making = asyncio.create_task(
        online.client.videos.create_and_poll(
            prompt="a red ball",
            model="demo",
            seconds="2",  # type: ignore[arg-type]  # OpenAI's own models had other lengths
            size="96x64",  # type: ignore[arg-type]
            extra_body={"seed": 7, "num_inference_steps": 2},
        )
    )
    task = await online.claimed()
    assert (task.spec.width, task.spec.height, task.spec.num_frames, task.spec.fps) == (96, 64, 17, 8)
    assert (task.spec.seed, task.spec.steps) == (7, 2)
    await online.service.publish(task, clip)
    video = await making
    assert (video.id, video.object, video.status, video.progress) == (task.id, "video", "completed", 100)
    assert (video.size, video.seconds, video.model, video.prompt) == ("96x64", "2", "demo", "a red ball")
    assert video.error is None and video.remixed_from_video_id is None
    assert video.completed_at is not None and video.expires_at is not None
    assert video.created_at <= video.completed_at < video.expires_at
    assert video.model_extra is not None and video.model_extra["seed"] == 7
    assert (await online.client.videos.download_content(video.id)).content == clip


async def test_a_video_tells_its_place_and_when_to_ask_again(online: Online):
    await online.client.videos.create(prompt="first")
    second = await online.client.videos.with_raw_response.create(prompt="second")
    assert second.parse().status == "queued" and second.parse().progress == 0
    assert second.headers["openai-poll-after-ms"] == "1000", "no video has been timed"
    await online.service.publish(task := await online.service.claim())
    first = await online.client.videos.with_raw_response.retrieve(task.id)
    assert "openai-poll-after-ms" not in first.headers
    task = await online.service.claim()
    await online.service.ledger.report(task.uid, task.attempt, at(1, 0.555))
    running = await online.client.videos.retrieve(task.id)
    assert (running.status, running.progress, running.completed_at) == ("in_progress", 55, None)


async def test_the_pictures_of_a_video(online: Online, clip: bytes):
    video = await online.client.videos.create(prompt="x", extra_body={"num_frames": 17, "fps": 8})
    task = await online.service.claim()
    await online.service.publish(task, clip)
    for variant, form, size in (("thumbnail", "WEBP", (96, 64)), ("spritesheet", "JPEG", (960, 480))):
        answer = await online.client.videos.download_content(video.id, variant=variant)  # type: ignore[arg-type]
        with Image.open(io.BytesIO(answer.content)) as picture:
            assert (picture.format, picture.size) == (form, size)
            is_bright = bool(np.asarray(picture).max() > 100)
            assert is_bright is (variant == "spritesheet"), "the thumbnail is the first frame"
        assert answer.response.headers["content-type"] == f"image/{form.lower()}"
    folder = online.service.artifacts.attempt_path(task.uid, 1).parent
    made = {"1.thumbnail.webp", "1.spritesheet.jpg"}
    assert {path.name for path in folder.iterdir()} == {"1.mp4", "1.last_frame.png", *made}
    kept = folder / "1.thumbnail.webp"
    kept.write_bytes(b"kept")
    assert (await online.client.videos.download_content(video.id, variant="thumbnail")).content == b"kept"
    await online.client.videos.delete(video.id)
    assert not folder.exists(), "they go with the video"


async def test_videos_are_listed_in_pages_in_either_order(online: Online):
    made = [(await online.client.videos.create(prompt=str(n))).id for n in range(3)]
    for order, wanted in (("desc", made[::-1]), ("asc", made)):
        page = await online.client.videos.list(limit=2, order=order)  # type: ignore[arg-type]
        assert page.has_more and [video.id for video in page.data] == wanted[:2]
        assert [video.id async for video in page] == wanted
    raw = (await online.client.videos.with_raw_response.list(limit=2)).http_response.json()
    assert (raw["object"], raw["first_id"], raw["last_id"]) == ("list", made[2], made[1])


async def test_a_cancelled_video_has_failed_so_that_every_poller_ends(online: Online):
    making = asyncio.create_task(online.client.videos.create_and_poll(prompt="x"))
    task = await online.claimed()
    for _ in range(2):  # the second time there is nothing to do
        answer = await online.client.post(f"/videos/{task.id}/cancel", cast_to=openai.types.Video)
        assert answer.status == "failed" and answer.error is not None and answer.error.code == "cancelled"
    assert (await making).error == answer.error
    assert not await online.service.ledger.report(task.uid, task.attempt, at(1, 0.1))
    assert len(online.service.cancelled) == 1
    with pytest.raises(openai.ConflictError):
        await online.client.videos.download_content(task.id)


async def test_a_failed_video_says_why(online: Online):
    making = asyncio.create_task(online.client.videos.create_and_poll(prompt="x"))
    task = await online.claimed()
    await online.service.ledger.fail(task.uid, task.attempt, TaskError("model_error", "It failed"))
    video = await making
    assert video.status == "failed" and video.error is not None and video.expires_at is None
    assert (video.error.code, video.error.message) == ("model_error", "It failed")


async def test_a_deleted_video_is_gone_with_its_files(online: Online, clip: bytes):
    video = await online.client.videos.create(prompt="x", input_reference=png())
    task = await online.service.claim()
    assert task.spec.image_key is not None
    await online.service.publish(task, clip)
    outputs, inputs = (online.service.settings.outputs, online.service.settings.data_dir / "inputs")
    assert any(outputs.rglob("*.mp4")) and any(inputs.rglob("*.png"))
    gone = await online.client.videos.delete(video.id)
    assert (gone.id, gone.object, gone.deleted) == (video.id, "video.deleted", True)
    assert not any(outputs.rglob("*.mp4")) and not any(inputs.rglob("*.png"))
    for lost in (online.client.videos.retrieve, online.client.videos.delete):
        with pytest.raises(openai.NotFoundError, match="There is no task"):
            await lost(video.id)


async def test_a_running_video_is_cancelled_before_it_is_deleted(online: Online):
    await online.client.videos.create(prompt="x", input_reference=png())
    task = await online.service.claim()
    await online.client.videos.delete(task.id)
    assert [cancelled.uid for cancelled in online.service.cancelled] == [task.uid]
    assert not await online.service.ledger.report(task.uid, task.attempt, at(1, 0.1))
    assert online.service.artifacts.read_input(str(task.spec.image_key)), "its run may still read that"


async def test_a_remix_has_the_settings_and_the_picture_of_its_video(online: Online):
    video = await online.client.videos.create(
        prompt="a red ball",
        input_reference=("ball.bin", png(80, 48), "application/octet-stream"),
        extra_body={
            "num_frames": 9,
            "fps": 8,
            "num_inference_steps": 3,
            "guidance_scale": 2.5,
            "negative_prompt": "x",
        },
    )
    of = await online.service.claim()
    await online.service.publish(of)
    remix = await online.client.videos.remix(video.id, prompt="a blue ball")
    assert (remix.remixed_from_video_id, remix.status, remix.prompt) == (video.id, "queued", "a blue ball")
    task = await online.service.claim()
    read = online.service.artifacts.read_input
    assert read(str(task.spec.image_key)) == read(str(of.spec.image_key))
    assert task.spec.image_key != of.spec.image_key, "it is kept with its own task"
    assert task.spec == replace(of.spec, prompt="a blue ball", image_key=task.spec.image_key)
    assert (await online.client.videos.retrieve(remix.id)).remixed_from_video_id == video.id


async def test_the_client_shows_the_sentence_of_a_refusal_and_its_field(online: Online):
    with pytest.raises(openai.UnprocessableEntityError, match="seconds: must be a number") as refused:
        await online.client.videos.create(prompt="x", seconds="long")  # type: ignore[arg-type]
    assert (refused.value.code, refused.value.param) == ("invalid_field", "seconds")
    with pytest.raises(openai.AuthenticationError):
        await online.client_of("guessed").videos.list()
    with pytest.raises(openai.NotFoundError):
        await online.client_of("bob").videos.retrieve((await online.client.videos.create(prompt="x")).id)
    for prompt in "ab":
        await online.client.videos.create(prompt=prompt)
    with pytest.raises(openai.RateLimitError, match="queue is full") as full:
        await online.client.videos.create(prompt="x")
    assert full.value.code == "queue_full" and int(full.value.response.headers["retry-after"]) >= 1


async def test_a_video_is_made_longer_and_an_edit_says_what_it_needs(online: Online, clip: bytes):
    first = await online.client.videos.create(prompt="x", extra_body={"num_frames": 17, "fps": 8})
    await online.service.publish(await online.service.claim(), clip)
    longer = await online.client.videos.extend(
        prompt="it stops",
        seconds="1",  # type: ignore[arg-type]
        video=openai.omit,  # type: ignore[arg-type]  # given an id, this client raises
        extra_body={"video": {"id": first.id}},
    )
    assert (longer.seconds, longer.size, longer.remixed_from_video_id) == ("3", first.size, first.id)
    with pytest.raises(openai.UnprocessableEntityError, match="no served model takes a video") as refused:
        await online.client.videos.edit(prompt="blue", video=("clip.mp4", clip))
    assert refused.value.param == "video"


async def test_what_openai_has_and_this_service_has_not_is_said(online: Online):
    with pytest.raises(openai.BadRequestError, match="not offered") as refused:
        await online.client.videos.create_character(name="cat", video=b"x")
    assert refused.value.code == "unsupported"
    assert [model.id async for model in online.client.models.list()] == ["demo"]


async def test_a_model_is_found_by_its_name(online: Online):
    assert (await online.client.models.retrieve("demo")).id == "demo"
    with pytest.raises(openai.NotFoundError, match="No model of this name") as unknown:
        await online.client.models.retrieve("other")
    assert unknown.value.code == "model_not_found"
