"""A collector of OpenTelemetry: takes spans by OTLP over HTTP, as a real one does, and keeps them."""

from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Seen:
    """A span, its ids in hexadecimal digits."""

    name: str
    trace: str
    id: str
    parent: str
    part: str
    """Of the service: the deployment that told of it."""
    seconds: float
    facts: Mapping[str, Any]
    error: str


class Collector:
    """A context manager. ``spans`` are those that have come so far, ``bodies`` the requests with them."""

    def __init__(self) -> None:
        self.spans: list[Seen] = []
        self.bodies: list[bytes] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.path == "/v1/traces":
                    collector.take(body)
                self.send_response(200 if self.path == "/v1/traces" else 404)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread = Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def take(self, body: bytes) -> None:
        """Keep the spans of a request."""
        request = ExportTraceServiceRequest.FromString(body)
        self.bodies.append(body)
        for resource in request.resource_spans:
            part = _facts(resource.resource.attributes)["wan.part"]
            for scope in resource.scope_spans:
                self.spans.extend(_seen(span, part) for span in scope.spans)

    def of(self, trace: str) -> list[Seen]:
        """Return the spans of a trace."""
        return [span for span in self.spans if span.trace == trace]


def _seen(span: Any, part: str) -> Seen:
    return Seen(
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        part=part,
        seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        facts=_facts(span.attributes),
        error=span.status.message,
    )


def _facts(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
