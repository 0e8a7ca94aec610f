"""The engine beside diffusers at the sizes that Wan is used at, on random weights made on the device.

Needs torch, transformers, numpy, diffusers, ftfy, imageio-ffmpeg, accelerate and safetensors, and no file.
Each case is alone on the device. A line is printed as soon as it is known; ``--json`` and ``--markdown`` come
last. ``share`` is of the device's measured bfloat16 matmul peak; ``peak GB`` counts weights, ``said GB`` is
what the engine's own estimate says beforehand. Diffusers is timed once after a warm-up, untuned and in the
same dtype: a tuned case's ratio is to that. No text encoder works unless ``--text-encoder`` is given.
A case that this device or its libraries cannot do is left out with the reason; one that breaks fails the run.
"""

import argparse
import fnmatch
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from bench.cases import CASES, Case, tiny
from bench.contestants import Work, operations, request_of, work
from bench.machine import describe
from bench.matmul_peak import matmul_tflops
from bench.report import HEADER, Row, as_json, line, markdown
from models.errors import OutOfMemory, TuningError, first_line
from models.memory.estimate import request_memory, resident_weights
from models.memory.peak import peak_bytes
from testbed.random_engine import RandomModel

_SLOWER = 2.5
"""The assumed time of an unmeasured case, in times of its matmuls at the peak; for diffusers twice that."""


class Bench:
    """A run of cases one after the other for as long as ``limit_s`` allows."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options = options
        self._folder = folder
        self._began = time.perf_counter()
        self._device = torch.device(options.device)
        self._dtype = torch.bfloat16 if self._device.type == "cuda" else torch.float32
        size = 8192 if self._device.type == "cuda" else 512
        self.peak_tflops = matmul_tflops(self._device, self._dtype, size) or 0.0
        self.fp8_peak_tflops = matmul_tflops(self._device, torch.float8_e4m3fn, size)
        self._diffusers_s: dict[object, float] = {}
        self.failed: list[str] = []
        """Names of cases that broke."""

    def rows(self, cases: list[Case]) -> Iterator[Row]:
        """Measure the cases one after the other; one that cannot run here has a note for figures."""
        for case in cases:
            try:
                yield self._row(case)
            except (TuningError, OutOfMemory, torch.OutOfMemoryError) as error:
                yield Row(case, note=first_line(error))
            except Exception as error:  # one case that breaks must not cost the figures of the others
                self.failed.append(case.name)
                yield Row(case, note=f"failed: {first_line(error)}")
            gc.collect()
            if self._device.type == "cuda":
                torch.compiler.reset()
                torch.cuda.empty_cache()

    def _row(self, case: Case) -> Row:
        count = operations(case)
        expected_s = _SLOWER * count / self.peak_tflops / 1e12
        if self._left_s() < expected_s * (1 + self._options.repeats):
            return Row(case, note="no time left")
        model = RandomModel(case.variant, self._device, self._dtype, self._options.text_encoder)
        tasks: list[Work] = []

        def warm_up() -> None:
            tasks.append(work(case, model, self._folder))
            tasks[0].ours()

        peak = model.weight_bytes + peak_bytes(warm_up, self._device)
        if self._device.type == "cuda":  # what tuning took before the first run does not count
            torch.cuda.reset_peak_memory_stats(self._device)
        ours_s = self._seconds(tasks[0].ours, self._options.repeats)
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
        diffusers_s, note = self._by_diffusers(case, tasks[0], ours_s)
        return Row(case, ours_s, diffusers_s, count, self.peak_tflops, peak, self._said(case, model), note)

    def _said(self, case: Case, model: RandomModel) -> int:
        """Return the engine's own estimate beforehand: weights and the request."""
        itemsize, tuning = self._dtype.itemsize, case.tuning
        weights = resident_weights(
            model.elements, itemsize, case.variant, fp8=tuning.fp8, offload=tuning.offload
        )
        request = request_of(case)
        return weights + request_memory(case.variant, request, itemsize, scratch=model.scratch).peak

    def _by_diffusers(self, case: Case, task: Work, ours_s: float) -> tuple[float | None, str]:
        """Return the known time of the same work, or measure it on untuned weights where there is time."""
        if case.work in self._diffusers_s or case.tuning != type(case.tuning)():
            return self._diffusers_s.get(case.work), ""
        if not self._options.diffusers:
            return None, ""
        if self._left_s() < 2 * _SLOWER * ours_s:
            return None, "no time left for diffusers"
        try:
            task.diffusers()
            self._diffusers_s[case.work] = self._seconds(task.diffusers, 1)
        except torch.OutOfMemoryError:
            return None, "diffusers: out of memory"
        return self._diffusers_s[case.work], ""

    def _seconds(self, run: Callable[[], object], repeats: int) -> float:
        seconds = []
        for _ in range(repeats):
            began = time.perf_counter()
            run()
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds)

    def _left_s(self) -> float:
        limit: float = self._options.limit_s
        return limit - (time.perf_counter() - self._began)


def main(arguments: list[str]) -> int:
    """Measure and print."""
    options = _options(arguments)
    cases = [case for case in CASES if any(fnmatch.fnmatch(case.name, wanted) for wanted in options.cases)]
    if options.scale == "tiny":
        cases = [tiny(case) for case in cases]
    device = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else None
    machine = describe(device)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        print(machine)
        print(f"matmul peak: {bench.peak_tflops:.3g} TFLOP/s; fp8: {bench.fp8_peak_tflops or 0:.3g}")
        print(HEADER, flush=True)
        rows = []
        for row in bench.rows(cases):
            rows.append(row)
            print(line(row), flush=True)
    if options.markdown:
        print(markdown(rows, machine, bench.peak_tflops, bench.fp8_peak_tflops, arguments))
    if options.json:
        print(json.dumps(as_json(rows, machine, bench.peak_tflops, bench.fp8_peak_tflops)))
    return 1 if bench.failed else 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench real_sizes", description=__doc__)
    add = parser.add_argument
    names = ", ".join(case.name for case in CASES)
    add("--cases", nargs="+", default=["*"], metavar="NAME", help=f"names or patterns, of {names}")
    add("--scale", choices=("real", "tiny"), default="real", help="tiny: small models, to try the benchmark")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add(
        "--repeats",
        type=int,
        default=2,
        help="measured runs a case, after one that is not; the median counts",
    )
    add("--limit-s", type=float, default=520.0, help="start nothing that would end later than this")
    add("--diffusers", action=argparse.BooleanOptionalAction, default=True, help="measure it, too")
    add("--text-encoder", action="store_true", help="UMT5-XXL, too, with random weights: 11 GB more")
    add("--markdown", action="store_true", help="print a section for docs/performance.md")
    add("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args(arguments)
    for wanted in options.cases:
        if not fnmatch.filter([case.name for case in CASES], wanted):
            parser.error(f"there is no case {wanted}; there are {names}")
    if options.scale == "real" and not options.device.startswith("cuda"):
        parser.error("the real sizes need a CUDA device; --scale tiny runs everywhere")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
