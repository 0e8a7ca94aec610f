"""A group of ranks is an engine like any other, and it ends as a whole."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from models.engine import EngineSettings
from models.errors import GroupLost, ModelError
from models.generate import generate
from models.loading import load_engine
from models.variants import VARIANTS
from serve_app.replica.rank_group import RankGroup
from tests.contract import test_engine_contract as contract
from tests.contract.test_engine_contract import REQUEST, video
from tests.service.cluster import ROOT, Cluster, demo, paced
from tests.service.ranks import assert_gone, group_of

STRICT_S = 5

# Every test of the contract, on this file's engine.
globals().update({name: test for name, test in vars(contract).items() if name.startswith("test_")})


@pytest.fixture(scope="module")
def engine(cluster: Cluster) -> Iterator[RankGroup]:
    with group_of(demo()) as group:
        yield group


def test_two_ranks_make_the_video_of_one(engine: RankGroup) -> None:
    alone = load_engine(EngineSettings(VARIANTS["demo"], ROOT / "models/demo/weights"))
    image = np.full((REQUEST.height, REQUEST.width, 3), (200, 30, 30), dtype=np.uint8)
    for request in (REQUEST, replace(REQUEST, image=image, num_fragments=2)):
        expected, made = video(alone, request), video(engine, request)
        assert made.shape == expected.shape
        assert np.abs(made.astype(int) - expected).max() <= 1


def test_a_run_that_is_not_the_latest_any_more_is_refused(engine: RankGroup) -> None:
    run = engine.prepare(REQUEST)
    engine.prepare(REQUEST)
    with pytest.raises(ModelError):
        engine.denoise_step(run)
    assert engine.is_whole


def test_whatever_is_left_the_ranks_stay(engine: RankGroup) -> None:
    """Runs and decodes left half-way are what the contract's tests did, over and over."""
    next(generate(engine, replace(REQUEST, num_frames=33)))
    assert len(video(engine, REQUEST)) == REQUEST.num_frames
    assert engine.is_whole


def test_a_rank_that_fails_alone_is_the_end_of_all(cluster: Cluster) -> None:
    with group_of(paced(0.0), timeout_s=STRICT_S) as group:
        pids = {process.pid for process in group.processes}
        run = group.prepare(replace(REQUEST, prompt="[[raise]]"))
        with pytest.raises(GroupLost):
            group.denoise_step(run)
        assert_gone(pids)
        with pytest.raises(GroupLost):
            group.prepare(REQUEST)
