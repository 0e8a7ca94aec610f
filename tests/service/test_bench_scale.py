"""The stand-ins of ``scripts/bench scale`` run as the service's own parts do."""

from argparse import Namespace
from pathlib import Path

from bench.scale import PARTS
from bench.stage import Stage
from testbed.cluster import Cluster


def test_slots_claim_run_and_publish_every_task(cluster: Cluster, tmp_path: Path) -> None:
    stage = Stage(cluster, tmp_path / "short")
    figures = PARTS["short"](stage, Namespace(seconds=1))
    assert 0 < figures["busy_pct_8_slots_of_0.1_s"] <= 100
    assert len(stage.runs()) == 80, "8 slots for a second, at 0.1 s a task"
    calls = stage.calls(since=0.0)
    assert [len(calls[kind]) for kind in ("publish", "report")] == [80, 80]
