"""What Ray Serve says of the models' deployments: how many replicas it means to have, and whether it can."""

import asyncio
from collections.abc import Mapping, Sequence

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import DeploymentStatusOverview

from serve_app.tasks.task import Scale

_FAILING = ("UNHEALTHY", "DEPLOY_FAILED")


class Deployments:
    """Asks Serve's controller. ``names``: the deployment of each model that is to be watched."""

    def __init__(self, application: str, names: Mapping[str, str]) -> None:
        self._application = application
        self._names = names

    async def scales(self) -> Sequence[Scale]:
        """Each model's scale now; nothing while the controller is away, or does not know the model yet."""
        if not self._names:
            return []
        try:
            applications = (await asyncio.to_thread(serve.status)).applications
        except (RayError, RayServeException, TimeoutError):
            return []
        if self._application not in applications:
            return []
        deployments = applications[self._application].deployments
        return [
            _scale(model, deployments[name]) for model, name in self._names.items() if name in deployments
        ]


def _scale(model: str, deployment: DeploymentStatusOverview) -> Scale:
    states = {str(state): count for state, count in deployment.replica_states.items()}  # plain strings
    wanted = sum(states.values()) - states.get("STOPPING", 0)
    failing = not states.get("RUNNING") and deployment.status.value in _FAILING
    return Scale(model, wanted, failing)
