"""A group of ranks makes the video of one device and ends as a whole; the engines' contract holds for it."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray

from models.engine import Engine, EngineSettings, Frames, GenerationRequest
from models.errors import GroupLost, ModelError, TuningError, WeightsError
from models.generate import generate
from models.loading import load_engine
from models.parallel.plan import ParallelPlan
from models.phase import Phase
from models.variants import VARIANTS
from serve_app.config.model_settings import ModelSettings
from serve_app.replica.rank_actor import RankActor, RankStart
from serve_app.replica.rank_group import RankGroup
from testbed.cluster import ROOT, Cluster, demo, paced
from testbed.ranks import assert_gone, group_of
from testbed.service import wait_for
from tests.collector import Collector
from tests.contract.conftest import RANK_PATIENCE_S
from tests.contract.test_engine_contract import REQUEST, video

STRICT_S = 5
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def engine(demo_pair: RankGroup) -> RankGroup:
    return demo_pair


def followed(engine: Engine, request: GenerationRequest) -> tuple[Frames, list[Phase]]:
    """Make a video; return it with the phases that were told on the way."""
    told: list[Phase] = []
    frames = np.concatenate(list(generate(engine, request, on_phase=told.append)))
    return frames, told


def test_two_ranks_make_the_video_of_one(engine: RankGroup) -> None:
    alone = load_engine(EngineSettings(VARIANTS["demo"], ROOT / "models/demo/weights"))
    image = np.full((REQUEST.height, REQUEST.width, 3), (200, 30, 30), dtype=np.uint8)
    for request in (REQUEST, replace(REQUEST, image=image, num_fragments=2)):
        (expected, phases), (made, told) = followed(alone, request), followed(engine, request)
        assert made.shape == expected.shape
        assert np.abs(made.astype(int) - expected).max() <= 1
        assert told == phases


def test_each_rank_tells_of_its_part_in_a_run_below_the_runs_span(
    engine: RankGroup, rank_collector: Collector
) -> None:
    engine.traceparent = f"00-{TRACE}-{SPAN}-01"
    followed(engine, REQUEST)
    engine.traceparent = None
    followed(engine, REQUEST)  # one that is not traced
    parts = ["rank prepare", *["rank step"] * REQUEST.steps, "rank decode"]
    wanted = Counter((name, rank) for rank in (0, 1) for name in parts)

    def told() -> Counter[tuple[str, int]]:
        return Counter((span.name, span.facts["wan.rank"]) for span in rank_collector.of(TRACE))

    wait_for(lambda: told() >= wanted, RANK_PATIENCE_S, lambda: f"{told()}")
    assert told() == wanted
    assert {(span.parent, span.part) for span in rank_collector.spans} == {(SPAN, "model-demo")}


def test_a_run_that_is_not_the_latest_any_more_is_refused(engine: RankGroup) -> None:
    run = engine.prepare(REQUEST)
    engine.prepare(REQUEST)
    with pytest.raises(ModelError):
        engine.denoise_step(run)
    assert engine.is_whole


def test_a_decode_that_is_left_frees_every_rank_at_once(engine: RankGroup) -> None:
    next(generate(engine, replace(REQUEST, num_frames=161, steps=1)))  # the first of several parts
    # Where a rank still waited for the others, it would go on to the end of its patience.
    ranks = engine._ranks  # noqa: SLF001  # each rank by itself: the group has no call that asks so
    ray.get([rank.process.remote() for rank in ranks], timeout=RANK_PATIENCE_S / 2)
    assert len(video(engine, REQUEST)) == REQUEST.num_frames
    assert engine.is_whole


def test_weights_that_one_rank_alone_reads_stop_the_start_in_its_own_words(
    cluster: Cluster, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "models/demo/weights", tmp_path / "weights")
    (tmp_path / "weights/tokenizer/tokenizer.json").write_text("{")
    model = demo(weights=str(tmp_path / "weights"))
    with pytest.raises(WeightsError, match="could not be loaded as a tokenizer"), group_of(model):
        pass


def test_an_encoder_that_the_first_rank_has_not_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # where there is a GPU, it is not for this test
    model = ModelSettings(**demo())
    engine = EngineSettings(model.spec, model.weights)
    start = RankStart(0, ParallelPlan(ulysses=2), model.engine, engine, STRICT_S, "h264_nvenc")
    with pytest.raises(TuningError, match="h264_nvenc cannot be used"):
        RankActor(start).load("127.0.0.1", port=0)


@pytest.mark.parametrize("fault", ["[[raise]]", "[[lost:device]]"])
def test_a_rank_that_fails_alone_is_the_end_of_all(cluster: Cluster, tmp_path: Path, fault: str) -> None:
    model = paced(0.0, options={"step_s": 0.0, "releases": str(tmp_path)})
    with group_of(model, timeout_s=STRICT_S) as group:
        pids = {process.pid for process in group.processes}
        run = group.prepare(replace(REQUEST, prompt=fault))
        with pytest.raises(GroupLost):
            group.denoise_step(run)
        assert_gone(pids)
        with pytest.raises(GroupLost):
            group.prepare(REQUEST)
