"""Spans of a task's life, in every process of the service, and what they are told to.

A span is known to other processes by its ``traceparent``, the text of W3C's Trace Context. It is stored with
the task, so that each attempt goes on with the trace of the submit. Spans hold no prompt and no picture.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Protocol, TypeAlias

from serve_app.config.tracing_settings import TracingSettings
from serve_app.tasks.task import Task

Facts: TypeAlias = Mapping[str, str | int | float | bool]
"""Attributes of a span."""

NO_FACTS: Facts = MappingProxyType({})


class Span(Protocol):
    """Something that takes time, from its begin until ``end``."""

    @property
    def traceparent(self) -> str | None:
        """The span's identity for spans of other processes; None where nothing is traced."""

    def name(self, name: str) -> None:
        """Give the span another name."""

    def note(self, facts: Facts) -> None:
        """Add attributes."""

    def end(self, error: str | None = None) -> None:
        """End the span now; ``error``: a code of what went wrong. Further calls do nothing."""


class Tracer(Protocol):
    """Makes spans. No call waits for the collector, and none raises because of it."""

    def begin(self, name: str, parent: str | None, facts: Facts = NO_FACTS, *, serves: bool = False) -> Span:
        """Begin a span below the one with the traceparent ``parent``; None: of a trace of its own.

        ``serves``: it answers a request from outside.
        """

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
        """Tell of a span that has ended; times in seconds since 1970."""

    def close(self) -> None:
        """Send what was told so far, for no longer than a moment: this process is about to end."""


class NoSpan:
    """A span that nobody is told of."""

    traceparent: str | None = None

    def name(self, name: str) -> None:
        """Do nothing."""

    def note(self, facts: Facts) -> None:
        """Do nothing."""

    def end(self, error: str | None = None) -> None:
        """Do nothing."""


class Untraced:
    """The tracer of a service without ``tracing``."""

    def begin(self, name: str, parent: str | None, facts: Facts = NO_FACTS, *, serves: bool = False) -> Span:
        """Return a span that nobody is told of."""
        return NO_SPAN

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
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


NO_SPAN = NoSpan()
UNTRACED = Untraced()

REQUEST: ContextVar[Span] = ContextVar("wan_serve_request_span", default=NO_SPAN)
"""The span of the request that is being answered."""


def tracer_of(settings: TracingSettings | None, part: str) -> Tracer:
    """Return the tracer of a process, the deployment ``part``; without settings nothing is imported."""
    if settings is None:
        return UNTRACED
    from serve_app.tracing.otel import OtelTracer

    return OtelTracer(settings, part)


def facts_of(task: Task) -> Facts:
    """Return what the spans of a task say of it."""
    return {
        "wan.task.id": task.id,
        "wan.task.uid": task.uid,
        "wan.model": task.model,
        "wan.attempt": task.attempt,
        **({"wan.key": task.owner} if task.owner else {}),
    }


def traceparent_of(task: Task) -> str | None:
    """Return the span that a task's further spans are below."""
    # A coordinator of the version before sends a task without it.
    traceparent: str | None = getattr(task, "traceparent", None)
    return traceparent
