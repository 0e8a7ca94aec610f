"""The records of model replicas: how each one is, and how many a model is to have."""

from dataclasses import dataclass
from enum import StrEnum


class Health(StrEnum):
    """The health of a model replica."""

    STARTING = "STARTING"
    """It loads the model."""
    READY = "READY"
    BUSY = "BUSY"
    DRAINING = "DRAINING"
    """Serve stops it, or the service shuts down: what runs may end, nothing begins."""
    SETUP_FAILED = "SETUP_FAILED"
    """The model could not be loaded; Serve may try it again, in another replica."""
    POISONED = "POISONED"
    """Its results cannot be trusted any more, or one of its ranks is lost; Serve replaces it."""


WORKING = frozenset({Health.READY, Health.BUSY})
"""The replicas that take tasks."""
ENDED = frozenset({Health.SETUP_FAILED, Health.POISONED})
"""Those that will never take one again."""


@dataclass(frozen=True, slots=True)
class Replica:
    """A model replica that was heard of lately."""

    replica_id: str
    model: str
    device: str
    ranks: int
    seen_at: float
    health: Health = Health.READY
    reason: str = ""
    """Why its setup failed: a sentence without a server path."""

    @property
    def works(self) -> bool:
        """True if it takes tasks, now or after the one it has."""
        return self.health in WORKING


@dataclass(frozen=True, slots=True)
class Scale:
    """The number of replicas that a scaling model is to have now."""

    model: str
    wanted: int
    failing: bool
    """True while its replicas cannot be started."""
