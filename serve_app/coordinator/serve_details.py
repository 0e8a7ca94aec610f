"""Ray Serve's own description of a deployment, which is no stable interface, parsed here and nowhere else."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError

from serve_app.tasks.replica import Scale

_FAILING = frozenset({"UNHEALTHY", "DEPLOY_FAILED"})
_RUNNING, _STOPPING = "RUNNING", "STOPPING"


class UnknownShape(Exception):
    """Serve's answer is not spelt as the versions of Ray spell it that this service knows."""


@dataclass(frozen=True, slots=True)
class DeploymentDetails:
    """One deployment as Serve describes it."""

    status: str
    states: Mapping[str, str]
    """The state of each replica, by its id."""

    @property
    def stopping(self) -> frozenset[str]:
        """The ids of the replicas that Serve stops."""
        return frozenset(replica for replica, state in self.states.items() if state == _STOPPING)

    def scale(self, model: str) -> Scale:
        """The replicas of ``model`` that Serve means to have; ``failing`` when it cannot start any."""
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
    """The deployments of ``application`` by name, from the answer of ``get_serve_details``.

    Empty while Serve does not know the application. Raises ``UnknownShape``.
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
