"""All that ten minutes of one GPU can tell: gates, kernels, steps, decodes and runs, beside diffusers.

Needs torch, transformers, numpy, diffusers, ftfy, imageio-ffmpeg, accelerate and safetensors, and no file:
weights are random. Every block is a process of its own with a limit of its own, so that one that breaks or
hangs costs that block only. Each finding is a JSON line in ``findings.jsonl`` as soon as it is known, and
``section.md``, for docs/performance.md, is written after each block. Nothing that failed a gate is timed.
"""

import argparse
import fnmatch
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterable
from multiprocessing.context import ForkServerContext
from pathlib import Path

from bench.gpu_blocks.finding import Finding, Findings, Kind
from bench.gpu_blocks.plan import MODULES, PLAN, Block
from bench.gpu_blocks.section import markdown

_LEAST_SHARE = 0.3
"""Share of a block's limit that must be left for it to be begun."""


def main(arguments: list[str]) -> int:
    """Run the blocks; the exit status is 1 if one of them broke."""
    options = _options(arguments)
    blocks = [block for block in PLAN if any(fnmatch.fnmatch(block.name, name) for name in options.blocks)]
    run = Run(options.out, options.device, tiny=options.scale == "tiny")
    findings = run.all(blocks, options.budget_s, " ".join(["python -m bench gpu", *arguments]))
    return 1 if any(finding.kind == "failure" for finding in findings) else 0


class Run:
    """A run of blocks, each in a process of its own."""

    def __init__(self, folder: Path, device: str, *, tiny: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._device = device
        self._tiny = tiny
        self._findings = Findings(folder / "findings.jsonl")
        self._findings.path.unlink(missing_ok=True)
        self._processes = _processes()

    def all(self, blocks: Iterable[Block], budget_s: float, command: str) -> list[Finding]:
        """Run the blocks in order for as long as the budget lasts; print and return what they find."""
        deadline = time.monotonic() + budget_s
        found: list[Finding] = []
        for block in blocks:
            left_s = deadline - time.monotonic()
            reason = self._why_not(block, found, left_s)
            if reason is None:
                self._run(block, min(block.limit_s, left_s))
            else:
                self._add(block, "note", "left out", reason)
            before, found = len(found), self._findings.read()
            for finding in found[before:]:
                print(_line(finding), flush=True)
            (self._folder / "section.md").write_text(markdown(found, command) + "\n")
        return found

    def _why_not(self, block: Block, found: list[Finding], left_s: float) -> str | None:
        """Return why a block is not begun; None if it is."""
        if left_s < _LEAST_SHARE * block.limit_s:
            return "no time left"
        if self._tiny and block.compiles:
            return "compiling takes longer than all other blocks of the tiny scale"
        passed = {finding.name for finding in found if finding.kind == "gate" and finding.passed}
        missing = [gate for gate in block.gates if gate not in passed]
        return f"not past the gate {', '.join(missing)}" if missing else None

    def _run(self, block: Block, limit_s: float) -> None:
        """Run a block, and kill its processes at its limit."""
        place = self._findings, self._device, self._tiny, self._folder
        process = self._processes.Process(target=run_block, args=(block, *place))
        process.start()
        process.join(limit_s)
        if process.is_alive():
            assert process.pid is not None
            os.killpg(process.pid, signal.SIGKILL)  # with the compiler's processes, if it has any
            process.join()
            self._add(block, "failure", "limit", f"killed after {limit_s:.0f} s")
        elif process.exitcode:
            self._add(block, "failure", "process", f"ended with exit status {process.exitcode}")

    def _add(self, block: Block, kind: Kind, name: str, note: str) -> None:
        self._findings.add(Finding(block=block.name, kind=kind, name=name, note=note))


def run_block(block: Block, findings: Findings, device: str, tiny: bool, folder: Path) -> None:
    """Run one block in this process."""
    # here, since they take seconds to import: the process that all blocks are forks of has them
    import torch

    from bench.gpu_blocks.bench import Bench
    from bench.gpu_blocks.running import run

    run(block, Bench(block.name, findings, torch.device(device), tiny, folder))


def exit_without_cuda() -> None:
    """End this process, with exit status 1 if it has no CUDA device."""
    import torch

    sys.exit(0 if torch.cuda.is_available() else 1)


def _processes() -> ForkServerContext:
    """Return what makes processes: forks of one that imports everything and touches no device."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(list(MODULES))
    return processes


def _device(processes: ForkServerContext) -> str:
    looking = processes.Process(target=exit_without_cuda)
    looking.start()
    looking.join()
    return "cpu" if looking.exitcode else "cuda:0"


def _line(finding: Finding) -> str:
    value = "" if finding.value is None else f" {finding.value:.4g} {finding.unit}"
    wanted = "" if finding.wanted is None else f" (wanted {finding.wanted:g})"
    return f"{finding.block:<32}{finding.kind:<9}{finding.name}:{value}{wanted} {finding.note}".rstrip()


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench gpu", description=__doc__)
    add = parser.add_argument
    names = ", ".join(block.name for block in PLAN)
    add("--budget-s", type=float, default=590.0, help="seconds for all blocks together")
    add("--out", type=Path, default=Path("gpu_findings"), help="folder of findings.jsonl and section.md")
    add("--blocks", nargs="+", default=["*"], metavar="NAME", help=f"names or patterns, of {names}")
    add("--scale", choices=("real", "tiny"), default="real", help="tiny: small models, to try the benchmark")
    add("--device", help="by default cuda:0 where there is one, else cpu")
    options = parser.parse_args(arguments)
    for wanted in options.blocks:
        if not fnmatch.filter([block.name for block in PLAN], wanted):
            parser.error(f"there is no block {wanted}; there are {names}")
    options.device = options.device or _device(_processes())
    if options.scale == "real" and not options.device.startswith("cuda"):
        parser.error("the real sizes need a CUDA device; --scale tiny runs everywhere")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
