"""What Ray Serve says of the models' deployments: how many replicas it means to have, whether it can, and
which of them it stops.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from ray.exceptions import RayError
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException

from serve_app.tasks.replica import Scale

_FAILING = ("UNHEALTHY", "DEPLOY_FAILED")
_RUNNING, _STOPPING = "RUNNING", "STOPPING"


class Deployments:
    """Asks Serve's controller. ``names``: the deployment of each model.

    While the controller is away, or does not know the application yet, what it said last holds.
    """

    def __init__(self, application: str, names: Mapping[str, str]) -> None:
        self._application = application
        self._names = names
        self._stopping: Mapping[str, frozenset[str]] = {}

    async def look(self) -> Sequence[Scale]:
        """Ask for what is so now; the scale of each model that the controller knows."""
        try:
            applications = await asyncio.to_thread(_applications)
        except (RayError, RayServeException, TimeoutError):
            return []
        if self._application not in applications:
            return []
        said = applications[self._application]["deployments"]
        known = {model: said[name] for model, name in self._names.items() if name in said}
        self._stopping = {model: _stopping(deployment) for model, deployment in known.items()}
        return [_scale(model, deployment) for model, deployment in known.items()]

    def stopping(self, model: str) -> frozenset[str]:
        """The model's replicas that Serve stops, by id: they may end what they have."""
        return self._stopping.get(model, frozenset())


def _applications() -> Mapping[str, Any]:
    # What the dashboard's /api/serve/applications/ answers. ``serve.status`` asks for the same, takes several
    # times as long to check its types, and then only counts the replicas.
    client = _get_global_client()
    assert client is not None  # it raises where there is no controller
    applications: Mapping[str, Any] = client.get_serve_details()["applications"]
    return applications


def _stopping(deployment: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(each["replica_id"] for each in deployment["replicas"] if each["state"] == _STOPPING)


def _scale(model: str, deployment: Mapping[str, Any]) -> Scale:
    states = [replica["state"] for replica in deployment["replicas"]]
    wanted = len(states) - states.count(_STOPPING)
    failing = _RUNNING not in states and deployment["status"] in _FAILING
    return Scale(model, wanted, failing)
