"""A snapshot of the queue: each model's line, and the position of a task in it."""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from serve_app.queue.forecast import Forecast, Speed
from serve_app.tasks.caller import Caller
from serve_app.tasks.pauses import Pauses
from serve_app.tasks.replica import Replica, Scale
from serve_app.tasks.task import NewTask, Task
from serve_app.tasks.transitions import Status

_RETRY_BOUNDS_S = (1, 600)
_RETRY_UNKNOWN_S = 10


@dataclass(frozen=True, slots=True)
class Place:
    """A task's place in the queue and its expected end."""

    position: int | None
    """Position in the model's queue, from 1; None unless the task is queued."""
    eta_s: float | None
    """Expected seconds until the task ends; None when unknown."""


@dataclass(frozen=True, slots=True)
class ModelLine:
    """A model's queue, runs and replicas at the moment of the snapshot."""

    queued: int = 0
    running: int = 0
    replicas: Sequence[Replica] = ()
    """Replicas that take tasks."""
    others: Sequence[Replica] = ()
    """Replicas that are starting, draining or failed recently."""
    leaving: int = 0
    """Number of runs on draining replicas, which take no further task."""
    speed: Speed = field(default_factory=Speed)
    forecast: Forecast = field(default_factory=Forecast)
    scale: Scale | None = None
    """Serve's target number of replicas; None for a model without autoscaling."""
    held: int = 0
    """Number of queued tasks that a pause holds."""

    @property
    def awaits_replica(self) -> str | None:
        """The reason why a queued task waits for its model's first replica; None when a replica is up."""
        if self.replicas or self.scale is None:
            return None
        if self.scale.failing:
            return "has no replica up, and the last attempts to start one failed; it is tried again"
        return "has no replica up and is being started"

    def place(self, task: Task, *, age_s: float = 0.0) -> Place:
        """Return the place of ``task``, ``age_s`` seconds after the snapshot was taken."""
        if task.status is Status.RUNNING:
            return Place(None, self.speed.seconds((1 - task.progress) * task.work, task.tokens))
        if task.status is not Status.QUEUED:
            return Place(None, None)
        index = self.forecast.place(seq=task.seq, owner=task.owner, priority=task.priority)
        start_s, own_s = self.forecast.start_s(index), self.speed.seconds(task.work, task.tokens)
        if start_s is None or own_s is None:
            return Place(index + 1, None)
        return Place(index + 1, max(0.0, start_s - age_s) + own_s)


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """The queue, the runs and the replicas of all models at one moment."""

    lines: Mapping[str, ModelLine]
    running: Sequence[Task]
    replicas: Sequence[Replica]
    queued: Mapping[str, int]
    """Number of queued tasks of each owner."""
    following: Mapping[str, str]
    """The id of each owner's first queued task, owners in the order of those tasks (priority, then age)."""
    starts_s: Sequence[float]
    """Seconds from the snapshot until each queued task of any model starts, ascending."""
    taken_at: float
    """Reading of the monotonic clock."""
    pauses: Pauses = field(default_factory=Pauses)
    is_disk_low: bool = False
    """Whether no task is begun, for too little disk is left."""
    removed: Mapping[str, float] = field(default_factory=dict)
    """By each model that is not in the configuration any more, when its queued tasks fail, in seconds since
    1970.
    """

    def line(self, model: str) -> ModelLine:
        """Return the model's line; an empty one for an unknown model."""
        return self.lines.get(model, _EMPTY)

    def place(self, task: Task) -> Place:
        """Return the current place of ``task``; one that a pause holds has none."""
        if self.holds(task):
            return Place(None, None)
        return self.line(task.model).place(task, age_s=self._age_s)

    def told_s(self, new: NewTask) -> float | None:
        """Return the expected seconds until a task that is submitted now ends; None when unknown."""
        if self.pauses.hold(new.owner, new.model):
            return None
        line = self.line(new.model)
        start_s = line.forecast.start_s(
            line.forecast.place(seq=sys.maxsize, owner=new.owner, priority=new.priority)
        )
        own_s = line.speed.seconds(new.work, new.tokens)
        if start_s is None or own_s is None:
            return None
        return max(0.0, start_s - self._age_s) + own_s

    def holds(self, task: Task) -> bool:
        """Return True if a pause keeps the queued task from being begun."""
        return task.status is Status.QUEUED and self.pauses.hold(task.owner, task.model)

    def has_free_replica(self, model: str) -> bool:
        """Return True if a task submitted now would start without waiting for another task."""
        line = self.line(model)
        # A model that scales from zero starts a replica for its first task.
        from_zero = line.scale is not None and not line.scale.failing
        under_way = line.queued - line.held + line.running - line.leaving
        return under_way < max(len(line.replicas), int(from_zero))

    def may_start(self, caller: Caller, model: str) -> bool:
        """Return True if no pause and no ``max_running`` keeps the caller's next task from being begun."""
        if self.pauses.hold(caller.name, model):
            return False
        under_way = self.queued.get(caller.name, 0) + sum(task.owner == caller.name for task in self.running)
        return caller.max_running is None or under_way < caller.max_running

    def running_of(self, caller: Caller) -> Sequence[Task]:
        """Return the running tasks that the caller sees, oldest first."""
        return [task for task in self.running if caller.sees(task.owner)]

    def current(self, caller: Caller) -> str | None:
        """Return the id of the caller's longest-running task, otherwise of its next queued task, or None."""
        for task in self.running_of(caller):
            return task.id
        return next((id_ for owner, id_ in self.following.items() if caller.sees(owner)), None)

    @property
    def pending(self) -> int:
        """The number of queued tasks."""
        return sum(self.queued.values())

    @property
    def is_idle(self) -> bool:
        """True if any model has a free replica, and the disks have room for its task."""
        return not self.is_disk_low and any(self.has_free_replica(model) for model in self.lines)

    def retry_after_s(self, max_queued: int) -> int:
        """Return whole seconds until fewer than ``max_queued`` tasks are queued, if no task is added."""
        return self._until_start(self.starts_s, self.pending - max_queued)

    def own_retry_after_s(self, caller: Caller) -> int:
        """Return whole seconds until the caller has fewer queued tasks than its own ``max_queued``."""
        starts = [
            start for line in self.lines.values() for start in line.forecast.starts_of.get(caller.name, ())
        ]
        return self._until_start(sorted(starts), self.queued.get(caller.name, 0) - (caller.max_queued or 0))

    def _until_start(self, starts_s: Sequence[float], places: int) -> int:
        """Return whole seconds until ``places + 1`` of the queued tasks have started, within bounds."""
        index = max(0, places)
        if index < len(starts_s):
            start = starts_s[index]
        else:  # no forecast, or every task came after the snapshot
            free = [line.forecast.next_start_s for line in self.lines.values()]
            start = min((free_s for free_s in free if free_s is not None), default=_RETRY_UNKNOWN_S)
        low, high = _RETRY_BOUNDS_S
        return max(low, min(high, math.ceil(start - self._age_s)))

    @property
    def _age_s(self) -> float:
        return max(0.0, time.monotonic() - self.taken_at)


_EMPTY = ModelLine()
