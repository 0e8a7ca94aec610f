"""Records of model replicas: their health, and the target number of each model."""

from dataclasses import dataclass
from enum import StrEnum


class Health(StrEnum):
    """The health of a model replica."""

    STARTING = "STARTING"
    """The model is being loaded."""
    READY = "READY"
    BUSY = "BUSY"
    DRAINING = "DRAINING"
    """Serve is stopping the replica, or the service is shutting down: its run may end, no other starts."""
    SETUP_FAILED = "SETUP_FAILED"
    """The model could not be loaded; Serve may retry in another replica."""
    POISONED = "POISONED"
    """The engine's state can no longer be trusted, or a rank is lost; Serve replaces the replica."""


WORKING = frozenset({Health.READY, Health.BUSY})
"""Health of replicas that take tasks."""
ENDED = frozenset({Health.SETUP_FAILED, Health.POISONED})
"""Health of replicas that will take no further task."""


@dataclass(frozen=True, slots=True)
class Replica:
    """A model replica's heartbeat; ``seen_at`` is in seconds since 1970, UTC."""

    replica_id: str
    model: str
    device: str
    ranks: int
    seen_at: float
    health: Health = Health.READY
    reason: str = ""
    """Reason of a failed setup: a sentence without a server path."""

    @property
    def works(self) -> bool:
        """True if the replica takes tasks, now or after its current run."""
        return self.health in WORKING


@dataclass(frozen=True, slots=True)
class Scale:
    """The target number of replicas of a model with autoscaling."""

    model: str
    wanted: int
    failing: bool
    """True while the model's replicas cannot be started."""
