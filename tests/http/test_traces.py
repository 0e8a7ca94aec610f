"""Requests in the trace that their client names, told to a real collector."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from serve_app.api.native.task_document import message_document
from serve_app.config.tracing_settings import TracingSettings
from serve_app.coordinator.outgoing import Outgoing
from serve_app.tasks.caller import EVERYONE
from serve_app.tracing.otel import OtelTracer
from serve_app.tracing.task_spans import TaskSpans
from tests.collector import Collector
from tests.http.http_service import HttpService, running, settings
from tests.http.post import WEBHOOKS, Post
from tests.http.receiver import receiving

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture
def tracer(collector: Collector) -> OtelTracer:
    return OtelTracer(TracingSettings(endpoint=collector.endpoint), "api")


@pytest_asyncio.fixture
async def service(folder: Path, collector: Collector, tracer: OtelTracer) -> AsyncIterator[HttpService]:
    traced = settings(folder, tracing={"endpoint": collector.endpoint})
    async with running(traced, tracer=tracer) as service:
        yield service


async def submit(service: HttpService, traceparent: str | None = None, **fields: object) -> int:
    headers = {} if traceparent is None else {"traceparent": traceparent}
    body = {"prompt": "a hidden ball", "task_id": "t", **fields}
    return (await service.client.post("/v1/tasks/video", json=body, headers=headers)).status_code


async def test_a_submit_is_a_span_of_the_clients_trace_and_its_task_remembers_it(
    service: HttpService, collector: Collector, tracer: OtelTracer
) -> None:
    assert await submit(service, f"00-{TRACE}-{SPAN}-01") == 200
    assert (await service.client.get("/v1/tasks/t/status")).status_code == 200
    tracer.close()
    (span,) = collector.spans
    assert (span.name, span.trace, span.parent) == ("submit", TRACE, SPAN)
    assert span.facts["wan.task.id"] == "t" and span.facts["http.response.status_code"] == 200
    task = await service.store.get(EVERYONE, "t")
    assert task.traceparent == f"00-{TRACE}-{span.id}-01"
    assert b"hidden" not in b"".join(collector.bodies)


async def test_what_a_client_does_not_record_is_not_recorded(
    service: HttpService, collector: Collector, tracer: OtelTracer
) -> None:
    assert await submit(service, f"00-{TRACE}-{SPAN}-00") == 200
    tracer.close()
    assert collector.spans == []
    traceparent = (await service.store.get(EVERYONE, "t")).traceparent
    assert traceparent is not None and traceparent.startswith(f"00-{TRACE}") and traceparent.endswith("-00")


async def test_a_trace_of_its_own_begins_without_a_valid_one_and_a_refusal_is_in_it(
    service: HttpService, collector: Collector, tracer: OtelTracer
) -> None:
    assert await submit(service, "nonsense", infer_steps=-1) == 422
    assert await submit(service) == 200
    tracer.close()
    refused, taken = sorted(collector.spans, key=lambda span: span.name)
    assert (refused.name, refused.facts["http.response.status_code"]) == ("POST", 422)
    assert refused.parent == taken.parent == "" and len({refused.trace, taken.trace, TRACE}) == 3


@pytest.mark.parametrize(("what", "field"), [("webhook", "callback_url"), ("upload", "upload_url")])
async def test_each_attempt_to_send_something_is_in_the_trace_of_its_task_with_what_it_came_to(
    folder: Path, collector: Collector, tracer: OtelTracer, what: str, field: str
) -> None:
    where = {"endpoint": collector.endpoint}
    config = settings(folder, webhooks=WEBHOOKS, uploads={"networks": ["127.0.0.0/8"]}, tracing=where)
    async with running(config, tracer=tracer) as service, receiving() as receiver:
        post = Post(service, spans=TaskSpans(tracer))
        receiver.answers = ["503 Away"]
        where_to: dict[str, Any] = {field: receiver.url("/films/a.mp4?token=hidden")}
        await service.finished(**where_to)
        await post.deliver()
        post.now += 60
        await post.deliver()
    tracer.close()
    submit, first, second = sorted(
        collector.spans, key=lambda span: (span.name != "submit", span.error == "")
    )
    assert [span.name for span in (submit, first, second)] == ["submit", what, what]
    assert {(span.trace, span.parent) for span in (first, second)} == {(submit.trace, submit.id)}
    told = [(span.facts["wan.sending"], span.facts["http.response.status_code"]) for span in (first, second)]
    assert told == [(1, 503), (2, 204)]
    assert "503" in first.error and second.error == ""
    assert b"hidden" not in b"".join(collector.bodies)


async def test_a_coordinator_tells_of_its_messages_and_of_its_uploads(
    folder: Path, collector: Collector, tracer: OtelTracer
) -> None:
    where = {"endpoint": collector.endpoint}
    config = settings(folder, webhooks=WEBHOOKS, uploads={"networks": ["127.0.0.0/8"]}, tracing=where)
    async with running(config, tracer=tracer) as service, receiving() as receiver:
        describe = partial(message_document, root_path="")
        epoch = service.ledger.epoch
        spans = TaskSpans(tracer)
        outgoing = Outgoing(config, service.database, epoch, service.artifacts, describe, spans)
        await service.finished(callback_url=receiver.url("/hook"), upload_url=receiver.url("/a.mp4"))
        for courier in (outgoing.videos, outgoing.messages):
            await courier.look()
            await courier.idle()
    tracer.close()
    assert sorted(span.name for span in collector.spans) == ["submit", "upload", "webhook"]


def test_nothing_of_opentelemetry_is_imported_by_a_service_that_does_not_trace() -> None:
    program = (
        "import sys; from serve_app.tracing.tracer import tracer_of; "
        "tracer_of(None, 'api').begin('x', None).end(); "
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
