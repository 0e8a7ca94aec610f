"""Batching: questions share an answer's cost, and those that nobody waits for gather first."""

import asyncio
from collections.abc import Sequence

from serve_app.store.batching import Batching


async def test_questions_gather_for_as_long_as_batches_are_to_be_apart() -> None:
    batches: list[list[int]] = []

    async def answer(batch: Sequence[int]) -> Sequence[int]:
        batches.append(list(batch))
        return batch

    batching = Batching(answer, every_s=0.05)
    assert await batching.ask(1) == 1
    later = [asyncio.create_task(batching.ask(number)) for number in (2, 3)]
    await asyncio.wait(later[:1], timeout=0.01)  # enough for the one to have been answered alone
    later.append(asyncio.create_task(batching.ask(4)))
    assert await asyncio.gather(*later) == [2, 3, 4]
    assert batches == [[1], [2, 3, 4]]
