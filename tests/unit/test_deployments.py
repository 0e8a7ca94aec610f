"""Serve's description of its deployments: read into records, and ignored where it cannot be read."""

import logging
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from ray.serve.exceptions import RayServeException

from serve_app.coordinator.deployments import Deployments
from serve_app.tasks.replica import Scale

RECORDED: dict[str, Any] = {
    "controller_info": {"node_id": "d4592ded", "actor_name": "SERVE_CONTROLLER_ACTOR"},
    "target_capacity": None,
    "applications": {
        "wan": {
            "name": "wan",
            "route_prefix": None,
            "status": "RUNNING",
            "message": "",
            "last_deployed_time_s": 1795814315.7485206,
            "deployments": {
                "model-demo": {
                    "name": "model-demo",
                    "status": "HEALTHY",
                    "status_trigger": "CONFIG_UPDATE_COMPLETED",
                    "target_num_replicas": 2,
                    "replicas": [
                        {"replica_id": "b6xq4f2w", "state": "RUNNING", "pid": 16180},
                        {"replica_id": "ld0t4u2e", "state": "STOPPING", "pid": 16005},
                        {"replica_id": "x1", "state": "STARTING", "pid": None},
                    ],
                    "recent_dead_replicas": [],
                },
                "model-other": {
                    "name": "model-other",
                    "status": "DEPLOY_FAILED",
                    "replicas": [{"replica_id": "x2", "state": "STARTING"}],
                },
                "coordinator": {"name": "coordinator", "status": "HEALTHY", "replicas": []},
            },
        }
    },
}
"""An answer of Ray 2.60's ``get_serve_details``, shortened."""
SCALES = [Scale("demo", 2, failing=False), Scale("other", 1, failing=True)]
NAMES = {"demo": "model-demo", "other": "model-other", "unknown": "model-unknown"}


def renamed_key(details: dict[str, Any]) -> None:
    for replica in details["applications"]["wan"]["deployments"]["model-demo"]["replicas"]:
        replica["replica_state"] = replica.pop("state")


def wrong_type(details: dict[str, Any]) -> None:
    details["applications"]["wan"]["deployments"]["model-demo"]["replicas"] = 3


def no_applications(details: dict[str, Any]) -> None:
    details["apps"] = details.pop("applications")


class Controller:
    """A Serve controller with a set answer, or a set error."""

    def __init__(self) -> None:
        self.answer: object = RECORDED

    def __call__(self) -> object:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def controller() -> Controller:
    return Controller()


@pytest.fixture
def deployments(controller: Controller) -> Deployments:
    return Deployments("wan", NAMES, controller)


async def test_scales_and_stopping_replicas_are_read(deployments: Deployments) -> None:
    assert await deployments.look() == SCALES
    assert deployments.stopping("demo") == {"ld0t4u2e"}
    assert deployments.stopping("other") == deployments.stopping("unknown") == frozenset()


@pytest.mark.parametrize("change", [renamed_key, wrong_type, no_applications])
async def test_an_unknown_shape_is_logged_once_and_the_last_known_state_holds(
    deployments: Deployments,
    controller: Controller,
    change: Callable[[dict[str, Any]], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    await deployments.look()
    controller.answer = deepcopy(RECORDED)
    change(controller.answer)
    with caplog.at_level(logging.INFO, "ray.serve"):
        assert [await deployments.look() for _ in range(3)] == [[], [], []]
    assert len(caplog.records) == 1 and "cannot be read" in caplog.text
    assert deployments.stopping("demo") == {"ld0t4u2e"}
    controller.answer = RECORDED
    assert await deployments.look() == SCALES


@pytest.mark.parametrize(
    "answer",
    [RayServeException("no controller"), TimeoutError(), {"applications": {}}, AttributeError("gone")],
)
async def test_without_an_answer_the_last_known_state_holds(
    deployments: Deployments, controller: Controller, answer: object
) -> None:
    await deployments.look()
    controller.answer = answer
    assert await deployments.look() == []
    assert deployments.stopping("demo") == {"ld0t4u2e"}
