"""Blocks of work that end in every way, for processes that the tests of ``bench.gpu`` start."""

import os
import signal
import threading

from bench.gpu_blocks import gpu_tests
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


def tests_that_end_in_every_way(bench: Bench) -> None:
    bench.folder.joinpath("test_good.py").write_text(
        "import pytest\n"
        "@pytest.mark.gpu\ndef test_passes():\n    pass\n"
        "@pytest.mark.gpu\ndef test_fails():\n    assert 1 == 2\n"
        "@pytest.mark.gpu\ndef test_skips():\n    pytest.skip()\n"
        "def test_is_not_asked_for():\n    assert False\n"
    )
    bench.folder.joinpath("test_broken.py").write_text("import no_such_module\n")
    gpu_tests.tell(bench, "gpu", sorted(str(file) for file in bench.folder.glob("test_*.py")))


def dies(bench: Bench) -> None:
    finds(bench)
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs(bench: Bench) -> None:
    finds(bench)
    threading.Event().wait()
