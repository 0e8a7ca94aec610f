"""Batching: questions that arrive while one batch is being answered form the next batch.

Each statement costs a round trip to a thread, and each commit an fsync. Under load many callers share that
cost; a single caller is answered at once.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Batching(Generic[Q, A]):
    """Collects questions into batches for ``answer``, one batch at a time, of at most ``largest`` questions.

    ``answer`` returns an answer or an exception for each question, in order. ``every_s``: least time between
    the beginnings of two batches; questions that nobody waits for gather in it.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Q]], Awaitable[Sequence[A | Exception]]],
        *,
        largest: int = 64,
        every_s: float = 0.0,
    ) -> None:
        self._answer = answer
        self._largest = largest
        self._every_s = every_s
        self._next_at = 0.0
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._answering: asyncio.Task[None] | None = None

    async def ask(self, question: Q) -> A:
        """Return the answer to ``question``, or raise its exception. Safe to cancel."""
        answered: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answered))
        if self._answering is None or self._answering.done():
            self._answering = asyncio.create_task(self._answer_all())
        return await answered

    async def _answer_all(self) -> None:
        while self._waiting:
            if (early_s := self._next_at - time.monotonic()) > 0:
                await asyncio.sleep(early_s)
            self._next_at = time.monotonic() + self._every_s
            batch, self._waiting = self._waiting[: self._largest], self._waiting[self._largest :]
            try:
                answers = await self._answer([question for question, _ in batch])
            except Exception as error:
                answers = [error] * len(batch)
            for (_, answered), answer in zip(batch, answers, strict=True):
                if answered.done():
                    continue
                if isinstance(answer, Exception):
                    answered.set_exception(answer)
                else:
                    answered.set_result(answer)
