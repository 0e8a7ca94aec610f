"""The parser of Ray Serve's details of a deployment, an unstable interface that no other module reads."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError

from serve_app.tasks.replica import Scale

_FAILING = frozenset({"UNHEALTHY", "DEPLOY_FAILED"})
_RUNNING, _STOPPING = "RUNNING", "STOPPING"


class UnknownShape(Exception):
    """Serve's details do not have the format of the supported Ray versions."""


@dataclass(frozen=True, slots=True)
class DeploymentDetails:
    """Serve's details of one deployment."""

    status: str
    states: Mapping[str, str]
    """State of each replica, by its id."""

    @property
    def stopping(self) -> frozenset[str]:
        """Ids of the replicas that Serve is stopping."""
        return frozenset(replica for replica, state in self.states.items() if state == _STOPPING)

    def scale(self, model: str) -> Scale:
        """Return Serve's target number of replicas of ``model``; ``failing`` if none can be started."""
        failing = _RUNNING not in self.states.values() and self.status in _FAILING
        return Scale(model, len(self.states) - len(self.stopping), failing)


class _Replica(BaseModel):
    replica_id: str
    state: str


class _Deployment(BaseModel):
    status: str
    replicas: list[_Replica]


class _Application(BaseModel):
    deployments: dict[str, _Deployment]


class _Details(BaseModel):
    applications: dict[str, object]


def deployments_of(details: object, application: str) -> Mapping[str, DeploymentDetails]:
    """Parse the answer of ``get_serve_details``; return the deployments of ``application`` by name.

    Empty while the application is not deployed. Raises ``UnknownShape``.
    """
    try:
        applications = _Details.model_validate(details).applications
        if application not in applications:
            return {}
        known = _Application.model_validate(applications[application])
    except ValidationError as error:
        raise UnknownShape(str(error)) from error
    return {
        name: DeploymentDetails(each.status, {replica.replica_id: replica.state for replica in each.replicas})
        for name, each in known.deployments.items()
    }
