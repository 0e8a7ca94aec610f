"""LiteLLM's client over a real socket: each of its video functions that is served, and its errors."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from tests.http.http_service import VIDEO, HttpService, listening_at, png

if TYPE_CHECKING:
    import litellm

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def load_client() -> None:
    """Load the client, which takes long, only where its tests run, and without the prices that it fetches."""
    global litellm
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        import litellm
    litellm.suppress_debug_info = True  # which it prints with every error


@dataclass
class Gateway:
    """The service on a port, and LiteLLM's functions as they are called for it."""

    service: HttpService
    url: str

    async def __call__(self, name: str, **arguments: Any) -> Any:
        """Call a function of LiteLLM beside the event loop."""
        call = getattr(litellm, name)
        return await asyncio.to_thread(call, api_base=f"{self.url}/v1", api_key="none", **arguments)


@pytest_asyncio.fixture
async def gateway(service: HttpService) -> AsyncIterator[Gateway]:
    async with listening_at(service) as url:
        yield Gateway(service, url)


async def test_a_video_is_made_from_a_picture_and_asked_for_and_downloaded(gateway: Gateway):
    made = await gateway(
        "video_generation",
        model="openai/demo",
        prompt="a red ball",
        input_reference=png(),
        seconds="2",
        size="96x64",
        extra_body={"seed": 7, "num_inference_steps": 2},
    )
    assert (made.object, made.status, made.size, made.seconds) == ("video", "queued", "96x64", "2")
    task = await gateway.service.claim()
    assert (task.spec.seed, task.spec.steps, task.spec.num_frames) == (7, 2, 17)
    assert task.spec.image_key is not None
    assert (await gateway("video_status", video_id=made.id)).status == "in_progress"
    await gateway.service.publish(task)
    done = await gateway("video_status", video_id=made.id)
    assert (done.status, done.progress, done.error) == ("completed", 100, None)
    assert await gateway("video_content", video_id=made.id) == VIDEO


async def test_videos_are_listed_in_pages_by_the_ids_that_the_client_makes(gateway: Gateway):
    ids = [
        (await gateway("video_generation", model="openai/demo", prompt=prompt)).id for prompt in ("a", "b")
    ]
    first = await gateway("video_list", limit=1, order="asc", custom_llm_provider="openai")
    assert [video["id"] for video in first["data"]] == ids[:1] and first["has_more"]
    rest = await gateway("video_list", after=first["last_id"], order="asc", custom_llm_provider="openai")
    assert [video["prompt"] for video in rest["data"]] == ["b"] and not rest["has_more"]


async def test_a_video_is_remixed_and_made_longer_by_its_id(gateway: Gateway):
    made = await gateway("video_generation", model="openai/demo", prompt="a red ball", extra_body={"seed": 7})
    earlier = await gateway.service.publish(await gateway.service.claim())
    remix = await gateway("video_remix", video_id=made.id, prompt="a blue ball")
    task = await gateway.service.claim()
    assert (remix.remixed_from_video_id, remix.status) == (earlier.id, "queued")
    assert (task.spec.prompt, task.spec.seed) == ("a blue ball", 7)
    longer = await gateway("video_extension", video_id=made.id, prompt="it stops", seconds="1")
    assert (longer.remixed_from_video_id, longer.status) == (earlier.id, "queued")
    assert float(longer.seconds) > float(made.seconds)


async def test_the_client_raises_what_a_refusal_is_with_its_sentence(gateway: Gateway):
    with pytest.raises(litellm.exceptions.BadRequestError, match="seconds: must be a number"):
        await gateway("video_generation", model="openai/demo", prompt="x", seconds="long")
    with pytest.raises(litellm.exceptions.APIConnectionError, match="There is no task"):
        await gateway("video_remix", video_id="none", prompt="x")
    made = await gateway("video_generation", model="openai/demo", prompt="x")
    with pytest.raises(litellm.exceptions.APIConnectionError, match="There is no video yet"):
        await gateway("video_edit", video_id=made.id, prompt="blue")
    for prompt in "abcd":
        await gateway("video_generation", model="openai/demo", prompt=prompt)
    with pytest.raises(litellm.exceptions.RateLimitError, match="queue is full"):
        await gateway("video_generation", model="openai/demo", prompt="x")
