"""The spans of a rank: its part in each stage and step of a run, as its own process took them."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from serve_app.tracing.tracer import Tracer

T = TypeVar("T")


class RankSpans:
    """Tells the tracer of one rank's calls, below the span of the run that the replica names.

    ``run``: that span's traceparent; None while nothing is traced.
    """

    def __init__(self, tracer: Tracer, rank: int) -> None:
        self._tracer = tracer
        self._facts = {"wan.rank": rank}
        self.run: str | None = None

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Tell of what is done inside, and of the error that it raises."""
        began, error = time.time(), None
        try:
            yield
        except Exception as raised:
            error = type(raised).__name__
            raise
        finally:
            if self.run is not None:
                self._tracer.tell(name, self.run, began, time.time(), self._facts, error=error)

    def over(self, name: str, parts: Iterable[T]) -> Iterator[T]:
        """Yield the parts, and tell of the time from the first one to the end, or until they are left."""
        with self.of(name):
            yield from parts
