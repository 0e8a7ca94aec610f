"""Ranks of ``test_parallel.py`` that wait for ever; they need no engine, so they start at once."""

import os
import signal
import threading

from models.parallel.rank_launcher import LaunchedRank, RankLauncher


def wait_for_ever(rank: LaunchedRank) -> None:
    rank.send(os.getpid())
    threading.Event().wait()


def abandoned() -> None:
    """Start ranks, then die by SIGKILL (run in a process of its own)."""
    with RankLauncher(wait_for_ever, 2) as launcher:
        for _, (_, pid) in zip(range(2), launcher.messages(), strict=False):
            print(pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
