"""How a process becomes one rank of a group on this machine: it meets the others, then they talk directly."""

import os
from datetime import timedelta

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from models.parallel.mesh import Mesh, join
from models.parallel.plan import ParallelPlan

START_S = 1800.0
"""How long the ranks wait for each other while processes start and weights load."""

_HOST = "127.0.0.1"


def open_store() -> TCPStore:
    """A meeting place, for as long as it is kept; members find it by its ``port``."""
    # A port that is free now and one that is bound are not the same: this one is bound.
    return TCPStore(_HOST, 0, is_master=True, wait_for_workers=False)


class Member:
    """In a rank's own process: which one it is, its device, and where it meets the others."""

    def __init__(self, port: int, number: int, ranks: int, device: str, timeout_s: float) -> None:
        """``device``: torch's name in this process; ``timeout_s`` that of ``models.parallel.mesh.join``."""
        self.number = number
        self.ranks = ranks
        self.device = torch.device(device)
        self._timeout_s = timeout_s
        self._store = TCPStore(_HOST, port, is_master=False)
        self._meetings = 0

    def join(self) -> None:
        """Become one of the group."""
        # By the machine's own name gloo may end up on an interface that leads nowhere.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        self.meet()
        join(self._store, self.number, self.ranks, self.device, self._timeout_s)

    def mesh(self, plan: ParallelPlan) -> Mesh:
        """The ranks of a plan, connected."""
        return Mesh(plan, self.device, self._timeout_s)

    def meet(self, timeout_s: float = START_S) -> None:
        """Wait until every rank is here: after work whose length differs from rank to rank, like loading."""
        keys = [f"meeting {self._meetings} {rank}" for rank in range(self.ranks)]
        self._meetings += 1
        self._store.set(keys[self.number], "")
        self._store.wait(keys, timedelta(seconds=timeout_s))
