"""The stand-ins of ``scripts/bench scale`` run as the service's own parts do."""

from argparse import Namespace
from pathlib import Path

from bench.scale import PARTS, runs_of
from testbed.cluster import Cluster


def test_slots_claim_run_and_publish_every_task(cluster: Cluster, tmp_path: Path) -> None:
    figures = PARTS["short"](cluster, tmp_path / "short", Namespace(seconds=1))
    assert 0 < figures["busy_pct_8_slots_of_0.1_s"] <= 100
    assert len(runs_of(tmp_path / "short")) == 80, "8 slots for a second, at 0.1 s a task"
