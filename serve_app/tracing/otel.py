"""The tracer that tells a collector, by OTLP over HTTP. Imported only where the settings ask for it."""

import time
from collections.abc import Mapping
from threading import Thread

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serve_app.config.tracing_settings import TracingSettings
from serve_app.package_version import package_version
from serve_app.tracing.tracer import NO_FACTS, Facts, Span

_PATH = "/v1/traces"
_CLOSE_S = 1.5
_W3C = TraceContextTextMapPropagator()


class OtelSpan:
    """Implements ``Span``."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._has_ended = False

    @property
    def traceparent(self) -> str | None:
        """The span's identity in W3C's form."""
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, trace.set_span_in_context(self._span, Context()))
        return carrier.get("traceparent")

    def name(self, name: str) -> None:
        """Give the span another name."""
        self._span.update_name(name)

    def note(self, facts: Facts) -> None:
        """Add attributes."""
        self._span.set_attributes(dict(facts))

    def end(self, error: str | None = None) -> None:
        """End the span now, once."""
        if not self._has_ended:
            self._has_ended = True
            _end(self._span, error, time.time_ns())


class OtelTracer:
    """Implements ``Tracer``: a thread of its own sends spans in batches; those that pile up are dropped."""

    def __init__(self, settings: TracingSettings, part: str) -> None:
        resource: Mapping[str, str] = {
            "service.name": settings.service_name,
            "service.version": package_version(),
            "wan.part": part,
        }
        self._provider = TracerProvider(
            # A client that has decided for its trace has decided for ours.
            sampler=ParentBased(TraceIdRatioBased(settings.sample)),
            resource=Resource.create(resource),
        )
        exporter = OTLPSpanExporter(endpoint=settings.endpoint.rstrip("/") + _PATH)
        period_ms = settings.period_s * 1000
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=period_ms))
        self._tracer = self._provider.get_tracer("wan-serve")

    def begin(self, name: str, parent: str | None, facts: Facts = NO_FACTS, *, serves: bool = False) -> Span:
        """Begin a span."""
        kind = SpanKind.SERVER if serves else SpanKind.INTERNAL
        return OtelSpan(self._tracer.start_span(name, _below(parent), kind=kind, attributes=dict(facts)))

    def tell(
        self,
        name: str,
        parent: str | None,
        began: float,
        ended: float,
        facts: Facts = NO_FACTS,
        *,
        error: str | None = None,
    ) -> None:
        """Tell of a span that has ended."""
        span = self._tracer.start_span(name, _below(parent), attributes=dict(facts), start_time=_ns(began))
        _end(span, error, _ns(ended))

    def close(self) -> None:
        """Send what was told so far; a collector that does not answer is left behind."""
        closing = Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSE_S)


def _below(parent: str | None) -> Context:
    """Return the context of a parent; an empty one, for a new trace, without a parent that is valid."""
    return _W3C.extract({} if parent is None else {"traceparent": parent}, Context())


def _end(span: trace.Span, error: str | None, at_ns: int) -> None:
    if error is not None:
        span.set_status(Status(StatusCode.ERROR, error))
    span.end(at_ns)


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
