"""What is stored of replicas and models, by several services at once, on each database."""

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio

from serve_app.store.database import Database
from serve_app.store.fleet import Fleet
from serve_app.tasks.replica import Replica, Scale

MODELS = [f"model-{number}" for number in range(8)]


@pytest_asyncio.fixture
async def fleets(database: Database, migrated_url: str) -> AsyncIterator[tuple[Fleet, Fleet]]:
    """Those of two services on one database."""
    other = Database(migrated_url)
    yield Fleet(database), Fleet(other)
    await other.close()


async def test_two_services_come_with_the_first_rows_at_once(fleets: tuple[Fleet, Fleet]) -> None:
    await asyncio.gather(*(fleet.learn(model, 2.0, tokens=7) for model in MODELS for fleet in fleets))
    await asyncio.gather(*(fleet.note_scale(Scale(model, 3, False)) for model in MODELS for fleet in fleets))
    await asyncio.gather(
        *(fleet.saw(Replica(model, model, "cpu", 1, 4e9)) for model in MODELS for fleet in fleets)
    )
    for fleet in fleets:
        assert await fleet.rates() == dict.fromkeys(MODELS, 2.0)
        assert await fleet.shape_rates() == {(model, 7): 2.0 for model in MODELS}
        assert await fleet.scales() == {model: Scale(model, 3, False) for model in MODELS}
        assert {seen.replica_id for seen in await fleet.replicas(seen_within_s=60)} == set(MODELS)
