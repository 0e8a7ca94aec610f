"""Fair share: whose task is taken next among owners who wait for one model.

Start-time fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queuing", SIGCOMM 1996) with priorities before
it. Each owner has a virtual time: the work it was given, over its weight. Whoever has had least goes first.
The model's clock follows the owners who wait, and nobody starts behind it: who comes late, or comes back,
neither makes up for the time away nor pays for it.

Virtual times count units of work, as a task's ``work`` does, and are compared within a model only.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Share:
    """An owner's share: ``weight`` relative to the others, and at most ``max_running`` tasks at once."""

    weight: float = 1.0
    max_running: int | None = None


Shares = Mapping[str, Share]
"""By owner; one who is not in it has the usual share. Empty: it does not matter whose a task is."""

_USUAL = Share()
_NOT_COUNTED = Share(weight=math.inf)


def share_of(shares: Shares, owner: str) -> Share:
    """The owner's share."""
    return shares.get(owner, _USUAL) if shares else _NOT_COUNTED


class Head(Protocol):
    """The first task in an owner's line: highest priority, then oldest."""

    @property
    def owner(self) -> str:
        """Whose task it is."""

    @property
    def priority(self) -> int:
        """Higher goes first."""

    @property
    def seq(self) -> int:
        """The order in which tasks were submitted."""

    @property
    def work(self) -> float:
        """What its time is proportional to."""


@dataclass(frozen=True, slots=True)
class FairClock:
    """The virtual times of one model's queue."""

    now: float = 0.0
    """The model's own virtual time; never falls while anything waits."""
    times: Mapping[str, float] = field(default_factory=dict)
    """The virtual time of each owner that was given work since the queue was empty last."""

    def time_of(self, owner: str) -> float:
        """The virtual time of an owner that waits now."""
        return max(self.times.get(owner, 0.0), self.now)

    def key(self, head: Head) -> tuple[int, float, int]:
        """Orders heads: priority, then fair share, then age."""
        return -head.priority, self.time_of(head.owner), head.seq

    def after(self, heads: Iterable[Head], taken: Head, share: Share) -> "FairClock":
        """The clock once ``taken`` is given out of ``heads``, the owners that could have had it."""
        return FairClock(
            now=min(self.time_of(head.owner) for head in heads),
            times={**self.times, taken.owner: self.time_of(taken.owner) + taken.work / share.weight},
        )
