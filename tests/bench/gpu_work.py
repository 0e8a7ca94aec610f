"""Blocks of work that end in every way, for processes that the tests of ``bench.gpu`` start."""

import os
import signal
import threading

from bench.gpu_blocks.bench import Bench
from models.errors import TuningError


def finds(bench: Bench) -> None:
    bench.found("figure", "found", 1.0, "s")


def passes(bench: Bench) -> None:
    bench.found("gate", "open", 0.01, "error", wanted=0.02)


def fails(bench: Bench) -> None:
    bench.found("gate", "shut", float("nan"), "error", wanted=0.02)


def breaks(bench: Bench) -> None:
    finds(bench)
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")


def cannot(bench: Bench) -> None:
    raise TuningError("attention flash3 cannot be used: it is not installed.")


def dies(bench: Bench) -> None:
    finds(bench)
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs(bench: Bench) -> None:
    finds(bench)
    threading.Event().wait()
