"""Fair share: the order in which owners with queued tasks of one model are served.

Start-time fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queuing", SIGCOMM 1996), applied within a
priority. Each owner has a virtual time: the work it has received, divided by its weight. The owner with the
lowest virtual time is served first. The model's clock is the lowest virtual time of the owners with queued
tasks, and no owner's virtual time lies behind the clock: idle time earns no credit and costs nothing.

Virtual times are in units of ``Task.work`` and are comparable within one model only.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Share:
    """An owner's share: its ``weight`` relative to other owners, and its limit of running tasks."""

    weight: float = 1.0
    max_running: int | None = None


Shares = Mapping[str, Share]
"""Shares by owner; an owner without an entry has the default share. Empty: owners are not distinguished."""

_DEFAULT = Share()
_UNCOUNTED = Share(weight=math.inf)


def share_of(shares: Shares, owner: str) -> Share:
    """Return the owner's share."""
    return shares.get(owner, _DEFAULT) if shares else _UNCOUNTED


class Head(Protocol):
    """The first queued task of an owner: highest priority, then oldest."""

    @property
    def owner(self) -> str:
        """Owner of the task."""

    @property
    def priority(self) -> int:
        """Priority; higher is served first."""

    @property
    def seq(self) -> int:
        """Sequence number in the order of submission."""

    @property
    def work(self) -> float:
        """Cost of the task, to which its run time is proportional."""


@dataclass(frozen=True, slots=True)
class FairClock:
    """The virtual times of one model's queue."""

    now: float = 0.0
    """The model's own virtual time; never decreases while a task is queued."""
    times: Mapping[str, float] = field(default_factory=dict)
    """Virtual time of each owner that has received work since the queue was last empty."""

    def time_of(self, owner: str) -> float:
        """Return the virtual time of an owner with queued tasks."""
        return max(self.times.get(owner, 0.0), self.now)

    def key(self, head: Head) -> tuple[int, float, int]:
        """Return the sort key of a head: priority, then fair share, then age."""
        return -head.priority, self.time_of(head.owner), head.seq

    def after(self, heads: Iterable[Head], taken: Head, share: Share) -> "FairClock":
        """Return the clock after ``taken`` is claimed; ``heads``: first tasks of the eligible owners."""
        return FairClock(
            now=min(self.time_of(head.owner) for head in heads),
            times={**self.times, taken.owner: self.time_of(taken.owner) + taken.work / share.weight},
        )
