"""Ports of this machine that are free now, and that nobody gets by chance before they are used."""

import random
import socket
from collections.abc import Sequence
from contextlib import ExitStack, suppress

_RANGE: Sequence[int] = range(20_000, 30_000)
"""Between Ray's ports for workers and Serve's for ingress replicas, and below those that Linux gives to
whoever asks for any: a start of Ray takes hundreds of these, and a port that was free before may be one."""
_TRIES = 1000


def free_ports(count: int) -> Sequence[int]:
    """Return ``count`` ports at which nobody listens, on any address. Raises ``OSError`` if all are taken."""
    with ExitStack() as held:
        free: list[int] = []
        for port in random.SystemRandom().sample(_RANGE, _TRIES):
            probe = held.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind(("", port))
                free.append(port)
            if len(free) == count:
                return free
    raise OSError(f"{_TRIES} ports from {_RANGE[0]} on are taken")
