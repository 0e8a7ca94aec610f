"""A prompt is written out by a chat model before its run; whatever goes wrong with that is only told."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from models.phase import Phase, untold
from serve_app.config.prompt_enhancer_settings import PromptEnhancerSettings
from serve_app.files.local_artifacts import LocalArtifacts
from serve_app.files.output_paths import OutputPaths
from serve_app.replica.prompt_enhancer import NotEnhanced, PromptEnhancer
from serve_app.replica.run import Outcome
from serve_app.tasks.task import MAX_PROMPT_CHARS
from testbed.paced_engine import PacedEngine
from tests.http.receiver import Receiver, receiving
from tests.unit.run_stage import DEADLINE_S, SPEC, TASK, Coordinator, run

KEY = "sk-a-key"
RICH = "A grey cat walks slowly through tall grass, the camera follows, soft evening light."
ENHANCED = replace(TASK, enhance_prompt=True)


def completion(content: str | None, finish_reason: str = "stop") -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}}
    return json.dumps({"choices": [{**choice, "finish_reason": finish_reason}]}).encode()


def enhancer_at(url: str, **changes: Any) -> PromptEnhancer:
    given = {"url": url, "model": "chat", "key": KEY, "timeout_s": DEADLINE_S, **changes}
    return PromptEnhancer(PromptEnhancerSettings.model_validate(given))


@pytest_asyncio.fixture
async def endpoint() -> AsyncIterator[Receiver]:
    """A chat endpoint that answers each question with a rich prompt."""
    async with receiving() as receiver:
        receiver.answers, receiver.body = ["200 OK"] * 9, completion(RICH)
        yield receiver


@pytest.fixture
def artifacts(tmp_path: Path) -> LocalArtifacts:
    return LocalArtifacts(OutputPaths(tmp_path / "outputs"), tmp_path)


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as thread:
        yield thread


@pytest.fixture
def files() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as thread:
        yield thread


async def test_a_chat_model_is_asked_as_the_settings_say(endpoint: Receiver) -> None:
    enhancer = enhancer_at(endpoint.url("/v1/"), max_tokens=77, system_prompt="Write.")
    assert await enhancer.enhance("a cat", has_picture=False) == RICH
    await enhancer.enhance("a cat", has_picture=True)
    plain, pictured = endpoint.received
    assert plain.target == "/v1/chat/completions"
    assert plain.headers["authorization"] == f"Bearer {KEY}"
    assert plain.message == {
        "model": "chat",
        "messages": [{"role": "system", "content": "Write."}, {"role": "user", "content": "a cat"}],
        "max_tokens": 77,
        "stream": False,
    }
    assert "begins with a picture" in pictured.message["messages"][0]["content"]


@pytest.mark.parametrize(
    ("content", "prompt"),
    [
        (f"<think>Hm, “a cat”.\nSo:</think>\n\n {RICH}\n", RICH),
        (f'"{RICH}"', RICH),
        ('"Stop" is on one sign, on the other "Go"', '"Stop" is on one sign, on the other "Go"'),
        ("一只\0猫", "一只猫"),
    ],
)
async def test_what_a_chat_model_puts_around_a_prompt_is_left_out(
    endpoint: Receiver, content: str, prompt: str
) -> None:
    endpoint.body = completion(content)
    assert await enhancer_at(endpoint.url()).enhance("a cat", has_picture=False) == prompt


@pytest.mark.parametrize(
    ("answer", "body", "reason"),
    [
        ("500 Oops", b"", "answered with status 500"),
        ("307 Elsewhere\r\nlocation: /other", b"", "answered with status 307"),
        ("200 OK", b"<html>", "was no chat completion"),
        ("200 OK", b'{"choices": []}', "was no chat completion"),
        ("200 OK", b'{"choices": [{"message": {"content": "\\ud800"}}]}', "was no chat completion"),
        ("200 OK", completion(" <think>Hm.</think> "), "was empty"),
        ("200 OK", completion(None), "was empty"),
        ("200 OK", completion(RICH, "length"), "was cut off"),
        (
            "200 OK",
            completion("a" * (MAX_PROMPT_CHARS + 1)),
            f"was longer than {MAX_PROMPT_CHARS} characters",
        ),
        ("200 OK", completion("a" * 300_000), "was too large"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
async def test_an_answer_that_is_no_prompt_is_told(
    endpoint: Receiver, answer: str, body: bytes, reason: str
) -> None:
    endpoint.answers, endpoint.body = [answer], body
    with pytest.raises(NotEnhanced, match=reason):
        await enhancer_at(endpoint.url()).enhance("a cat", has_picture=False)
    assert len(endpoint.received) == 1


async def test_an_endpoint_that_is_silent_or_away_is_told_without_its_address_or_the_key(
    endpoint: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    silence = asyncio.Event()
    endpoint.before_answer = silence.wait
    with pytest.raises(NotEnhanced, match=r"did not answer within 0\.05 s"):
        await enhancer_at(endpoint.url(), timeout_s=0.05).enhance("a cat", has_picture=False)
    silence.set()
    with pytest.raises(NotEnhanced) as told:
        await enhancer_at("http://127.0.0.1:9").enhance("a cat", has_picture=False)
    assert str(told.value) == "the prompt enhancer could not be reached"
    assert "ConnectError" in caplog.text and KEY not in caplog.text


class Reading(PacedEngine):
    """An engine that keeps the prompts that it gets."""

    def __init__(self) -> None:
        super().__init__(step_s=0)
        self.prompts: list[str] = []

    def prepare(self, request, after=None, on_phase=untold):
        self.prompts.append(request.prompt)
        return super().prepare(request, after, on_phase)


@pytest.mark.parametrize("told_before", [None, "An older one.", ""], ids=["first", "retry", "vain-retry"])
async def test_every_attempt_is_made_of_the_prompt_that_the_first_one_got(
    artifacts: LocalArtifacts,
    thread: ThreadPoolExecutor,
    files: ThreadPoolExecutor,
    endpoint: Receiver,
    told_before: str | None,
) -> None:
    coordinator, engine = Coordinator(), Reading()
    task = replace(ENHANCED, revised_prompt=told_before)
    attempt = run(artifacts, coordinator, engine=engine, task=task)
    await attempt.enhance_prompt(enhancer_at(endpoint.url()))
    revised = RICH if told_before is None else told_before
    if told_before is None:  # before the engine begins
        assert coordinator.reports[-1].revised_prompt == RICH
        assert [phase for phase, _ in groupby(coordinator.phases)] == [Phase.ENHANCING, Phase.PREPARING]
    outcome = await attempt.finish(await attempt.generate(thread, files), files)
    assert outcome is Outcome.PUBLISHED
    assert engine.prompts == [revised or SPEC.prompt]
    assert [result.revised_prompt for result in coordinator.published] == [revised]
    assert len(endpoint.received) == (told_before is None)


@pytest.mark.parametrize("has_enhancer", [True, False])
async def test_without_an_answer_the_plain_prompt_is_run_and_the_client_is_told(
    artifacts: LocalArtifacts,
    thread: ThreadPoolExecutor,
    files: ThreadPoolExecutor,
    endpoint: Receiver,
    has_enhancer: bool,
) -> None:
    endpoint.answers = ["503 Busy"]
    coordinator, engine = Coordinator(), Reading()
    attempt = run(artifacts, coordinator, engine=engine, task=ENHANCED)
    await attempt.enhance_prompt(enhancer_at(endpoint.url()) if has_enhancer else None)
    assert await attempt.finish(await attempt.generate(thread, files), files) is Outcome.PUBLISHED
    (result,) = coordinator.published
    assert (engine.prompts, result.revised_prompt) == ([SPEC.prompt], "")
    (note,) = result.notes
    assert note.startswith("The prompt was not enhanced: ") and note.endswith(".")


async def test_a_cancelled_task_leaves_the_question_and_never_reaches_the_engine(
    artifacts: LocalArtifacts, thread: ThreadPoolExecutor, files: ThreadPoolExecutor, endpoint: Receiver
) -> None:
    coordinator, engine, silence = Coordinator(), Reading(), asyncio.Event()

    async def cancel() -> None:
        coordinator.leave_at_step = 0
        await silence.wait()

    endpoint.before_answer = cancel
    attempt = run(artifacts, coordinator, engine=engine, task=ENHANCED)
    async with asyncio.timeout(DEADLINE_S / 2):  # half of what the enhancer would wait
        await attempt.enhance_prompt(enhancer_at(endpoint.url()))
    silence.set()
    assert await attempt.finish(await attempt.generate(thread, files), files) is Outcome.LEFT
    assert (engine.prompts, coordinator.published) == ([], [])
    assert set(coordinator.phases) == {Phase.ENHANCING}
