"""The plan of a group on several nodes: what sends most stays within a node."""

import pytest

from models.errors import PlanError
from models.parallel.plan import ParallelPlan, plan


@pytest.mark.parametrize(
    ("devices", "nodes", "guidance", "expected"),
    [
        (16, 2, True, ParallelPlan(2, 1, 8)),  # each half on a node
        (16, 2, False, ParallelPlan(1, 2, 8)),
        (16, 4, True, ParallelPlan(2, 2, 4)),
        (2, 2, False, ParallelPlan(1, 2, 1)),
        (12, 2, False, ParallelPlan(1, 6, 2)),
    ],
)
def test_ulysses_stays_within_a_node(
    devices: int, nodes: int, guidance: bool, expected: ParallelPlan
) -> None:
    chosen = plan(devices, 40, guidance, nodes=nodes)
    assert chosen == expected and devices // nodes % chosen.ulysses == 0


def test_a_plan_that_the_nodes_cannot_share_is_refused() -> None:
    for devices, nodes, degrees in ((9, 2, {}), (8, 4, {"ulysses": 8}), (8, 0, {})):
        with pytest.raises(PlanError, match="node"):
            plan(devices, 40, False, nodes=nodes, **degrees)
