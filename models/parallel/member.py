"""Membership of a process in a group: rendezvous at a store, then direct communication."""

import os
from datetime import timedelta

import psutil
import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from models.parallel.mesh import Mesh, join
from models.parallel.plan import ParallelPlan

START_S = 1800.0
"""Seconds that ranks wait for each other while processes start and weights load."""

LOOPBACK = "127.0.0.1"


def open_store(host: str = LOOPBACK) -> TCPStore:
    """Open a rendezvous store at an address of this node, alive as long as the returned object; members
    connect to its ``port``.
    """
    # Port 0 binds at once; a port that was merely found free could be taken before it is bound.
    return TCPStore(host, 0, is_master=True, wait_for_workers=False)


class Member:
    """A rank in its own process: its number, its device, and its connection to the rendezvous store."""

    def __init__(
        self,
        port: int,
        number: int,
        ranks: int,
        device: str,
        timeout_s: float,
        *,
        host: str = LOOPBACK,
        own_host: str = LOOPBACK,
    ) -> None:
        """``device``: torch's device name in this process; ``timeout_s``: see
        ``models.parallel.mesh.join``; ``host``: address of the store; ``own_host``: address of this node at
        which the others reach it.
        """
        self.number = number
        self.ranks = ranks
        self.device = torch.device(device)
        self._timeout_s = timeout_s
        self._own_host = own_host
        self._store = TCPStore(host, port, is_master=False)
        self._meetings = 0

    def join(self) -> None:
        """Join the group, once all ranks are there."""
        # By default gloo resolves the machine's host name, which may lead to an unreachable interface.
        if (interface := interface_of(self._own_host)) is not None:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        self.meet()
        join(self._store, self.number, self.ranks, self.device, self._timeout_s)

    def mesh(self, plan: ParallelPlan) -> Mesh:
        """Build the mesh of a plan over the joined ranks."""
        return Mesh(plan, self.device, self._timeout_s)

    def meet(self, timeout_s: float = START_S) -> None:
        """Wait until every rank calls this (a barrier), after work of unequal length such as loading."""
        keys = [f"meeting {self._meetings} {rank}" for rank in range(self.ranks)]
        self._meetings += 1
        self._store.set(keys[self.number], "")
        self._store.wait(keys, timedelta(seconds=timeout_s))


def interface_of(host: str) -> str | None:
    """Return the name of this machine's network interface with an address; None if none has it."""
    if host == LOOPBACK:
        return "lo"
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == host for address in addresses):
            return name
    return None
