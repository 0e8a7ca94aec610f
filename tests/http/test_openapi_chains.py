"""Requests drawn from the OpenAPI document, each on its own and in chains along its links: no answer of the
service is one that the document does not declare.
"""

import asyncio
import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
import requests
import schemathesis
from hypothesis.strategies import SearchStrategy
from schemathesis import Case, GenerationMode, Response
from schemathesis.generation.stateful.state_machine import StepOutput
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi import checks
from schemathesis.specs.openapi.stateful.links import OpenApiLink
from sqlalchemy import delete
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.store.tables import PAUSES, TASKS
from tests.http.http_service import HttpService, running, settings, with_key

pytestmark = pytest.mark.slow
KEY = "key-of-alice"
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
SOUND = {"negative_prompt", "num_frames", "fps", "seed", "infer_steps", "num_inference_steps"}
"""Fields that are taken, beside a prompt, with any value that the document allows."""
BEGINS = (
    "POST /v1/tasks/video",
    "POST /v1/tasks/video/form",
    "POST /v1/videos",
    "POST /v1/local/video/generate",
    "POST /lightx2v/v1/tasks/video",
    "POST /lightx2v/v1/tasks/video/form",
    "POST /lightx2v/v1/local/video/generate",
    "GET /v1/tasks",
    "GET /v1/videos",
    "GET /v1/models",
)
"""What chains begin with."""
EACH, CHAINS, STEPS = 4, 215, 4
"""Requests drawn for each operation in either mode; chains, and the most links that one of them follows."""
LEAST_ALONE, LEAST_IN_CHAINS = 280, 800
"""Requests that each of the two services answers at least: more than 2,000 in all."""
DRAWING = hypothesis.settings(
    max_examples=EACH,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[hypothesis.Phase.generate],
    suppress_health_check=set(hypothesis.HealthCheck) - {hypothesis.HealthCheck.filter_too_much},
)


_DRAWN: dict[tuple[str, GenerationMode], Sequence[Case]] = {}


def drawn(operation: APIOperation, mode: GenerationMode) -> Sequence[Case]:
    """Return requests of an operation that fit its document, or that do not; none if no request can.

    They are drawn once for all services.
    """
    found = _DRAWN.get((operation.label, mode))
    if found is None:
        found = _DRAWN[operation.label, mode] = _draw(operation.as_strategy(generation_mode=mode))
    return [
        operation.Case(
            path_parameters=case.path_parameters,
            query=case.query,
            headers=case.headers,
            body=case.body,
            media_type=case.media_type,
        )
        for case in found
    ]


def _draw(strategy: SearchStrategy[Case]) -> Sequence[Case]:
    found: list[Case] = []

    def draw(case: Case) -> None:
        found.append(case)

    with suppress(hypothesis.errors.Unsatisfiable, hypothesis.errors.FailedHealthCheck):
        DRAWING(hypothesis.given(case=strategy)(draw))()
    return found


@dataclass
class World:
    """The service, a client of it, and a stand-in for its replicas."""

    runner: asyncio.Runner
    service: HttpService
    client: httpx.AsyncClient
    key: str | None
    operations: Mapping[str, APIOperation]
    chance: random.Random = field(default_factory=lambda: random.Random(20260131))
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    faults: dict[tuple[str, int], str] = field(default_factory=dict)

    def ask(self, case: Case) -> Response:
        """Send a request, now and then without the key, and note an answer that is not declared."""
        if case.query and isinstance(wait := case.query.get("wait"), int | float) and wait > 0:
            case.query["wait"] = 0.001
        sent = requests.Request(**case.as_transport_kwargs(base_url="http://service")).prepare()
        assert sent.method is not None and sent.url is not None
        headers: dict[str, Any] = dict(sent.headers)
        if self.chance.random() < 0.97:
            headers |= with_key(self.key)
        body: Any = sent.body
        answer = self.runner.run(self.client.request(sent.method, sent.url, headers=headers, content=body))
        response = Response.from_httpx(answer, verify=True)
        self._check(case, response)
        if case.method == "POST" and response.status_code == 200:
            self.runner.run(self._work(self.chance.randrange(3)))
        return response

    def _check(self, case: Case, response: Response) -> None:
        place = (case.operation.label, response.status_code)
        self.answers[place] += 1
        try:
            # LightX2V's words for a full queue and a taken id are a 503.
            assert response.status_code < 500 or (
                response.status_code == 503 and case.operation.path.startswith("/lightx2v")
            )
            case.validate_response(response, checks=CHECKS)
        except Exception as fault:
            self.faults.setdefault(
                place, f"{fault!r} {getattr(fault, 'exceptions', '')} {response.content[:500]!r}"
            )

    async def _work(self, far: int) -> None:
        """Leave the next task waiting (0), begin it (1), or bring it to its end (2)."""
        task = await self.service.ledger.claim("demo", "demo-1") if far > 0 else None
        if task is not None and far > 1:
            await self.service.publish(task)

    def forget(self) -> None:
        """Forget all tasks, and begin all queues again."""

        async def forget() -> None:
            async with self.service.database.write() as connection:
                await connection.execute(delete(TASKS))
                await connection.execute(delete(PAUSES))

        self.runner.run(forget())


def first_message_of_streams(app: ASGIApp) -> ASGIApp:
    """Return the application with event streams, of which some have no end, cut after their first message.

    The stream is held there until the service learns that its client has gone.
    """

    async def cut(scope: Scope, receive: Receive, send: Send) -> None:
        is_stream = False

        async def send_first(message: Message) -> None:
            nonlocal is_stream
            if message["type"] == "http.response.start":
                content_type = httpx.Headers(message["headers"]).get("content-type", "")
                is_stream = content_type.startswith("text/event-stream")
            elif is_stream:
                await send({**message, "more_body": False})
                await asyncio.Event().wait()
            await send(message)

        await app(scope, receive, send_first)

    return cut


@pytest.fixture(scope="module", params=[None, KEY], ids=["keyless", "keyed"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, migrated: Path
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("service")
    (folder / "data").mkdir()
    (folder / "data" / "tasks.db").write_bytes(migrated.read_bytes())
    key: str | None = request.param
    keys = [{"name": "alice", "sha256": hashlib.sha256(key.encode()).hexdigest()}] if key else []
    with asyncio.Runner() as runner:
        context = running(settings(folder, keys=keys))
        service = runner.run(context.__aenter__())
        runner.run(service.add_replica())
        app = first_message_of_streams(service.api)
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")
        schema = schemathesis.openapi.from_dict(service.api.openapi())
        schema.config.generation.update(with_security_parameters=False)
        operations = {found.ok().label: found.ok() for found in schema.get_all_operations()}
        yield World(runner, service, client, key, operations)
        runner.run(client.aclose())
        runner.run(context.__aexit__(None, None, None))


def test_every_operation_answers_as_declared(world: World):
    for operation in world.operations.values():
        for mode in GenerationMode:
            for case in drawn(operation, mode):
                world.ask(case)
        world.forget()
    assert not world.faults
    assert {label for label, _ in world.answers} == world.operations.keys()
    assert sum(world.answers.values()) >= LEAST_ALONE


def links_of(operations: Mapping[str, APIOperation]) -> Mapping[tuple[str, int], Sequence[OpenApiLink]]:
    """Return the links of each operation by the status of the answer that has them."""
    found: defaultdict[tuple[str, int], list[OpenApiLink]] = defaultdict(list)
    for label, operation in operations.items():
        for status, response in operation.responses.items():
            for name, definition in response.iter_links():
                found[label, int(status)].append(OpenApiLink(name, status, definition, operation))
    return found


def following(link: OpenApiLink, output: StepOutput, case: Case) -> Case | None:
    """Return a request of the link's target with what it takes from an answer; None if that is not there."""
    extracted = link.extract(output)
    sent = {"path_parameters": case.path_parameters, "query": case.query, "headers": case.headers}
    for container, parameters in extracted.parameters.items():
        values = {name: parameter.value.ok() for name, parameter in parameters.items()}
        if not all(isinstance(value, str) for value in values.values()):
            return None
        sent[container] = {**(sent[container] or {}), **values}
    body = case.body
    if extracted.request_body is not None:
        added = extracted.request_body.value.ok()
        if not isinstance(added, dict):
            return None
        body = {**_sound_fields(case), **added}
    return case.operation.Case(**sent, body=body, media_type=case.media_type)


def sound(case: Case) -> Case:
    """Return a submit of those fields alone that are taken with any value, or a list of all."""
    if not isinstance(case.body, dict):
        return case.operation.Case()
    body = {"prompt": "a ball", **_sound_fields(case)}
    if "save_video_path" in case.body:
        body |= {"save_video_path": "ball.mp4", "task_id": "ball"}
    return case.operation.Case(body=body, media_type=case.media_type, query=case.query)


def _sound_fields(case: Case) -> dict[str, Any]:
    return {name: case.body[name] for name in SOUND & case.body.keys()}


def test_chains_along_the_links_answer_as_declared(world: World):
    links = links_of(world.operations)
    cases = {
        label: drawn(operation, GenerationMode.POSITIVE) for label, operation in world.operations.items()
    }
    followed: Counter[str] = Counter()
    chance = random.Random(20260131)
    chains, before = 0, world.answers.total()
    for number in range(CHAINS):
        case = chance.choice(cases[BEGINS[number % len(BEGINS)]])
        case = sound(case) if chance.random() < 0.9 else case
        source: list[tuple[OpenApiLink, StepOutput]] = []
        for step in range(1 + STEPS):
            output = StepOutput(world.ask(case), case)
            # The newest answer that leads anywhere leads on.
            onward = links.get((case.operation.label, output.response.status_code), ())
            source = [(link, output) for link in onward] or source
            reached = [
                (link, request)
                for link, output in source
                if (request := following(link, output, chance.choice(cases[link.target.label]))) is not None
            ]
            if not reached or step == STEPS:
                break
            link, case = min(reached, key=lambda found: followed[found[0].full_name])
            followed[link.full_name] += 1
            chains += step == 0
        if number % 10 == 9:
            world.forget()
    assert not world.faults
    assert chains >= 150 and sum(followed.values()) >= 600, world.answers
    assert world.answers.total() - before >= LEAST_IN_CHAINS
    found = {link.full_name: link.target.label for links_there in links.values() for link in links_there}
    assert {found[name] for name in followed} == set(found.values()), "all that a link leads to is reached"
