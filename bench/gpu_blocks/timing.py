"""A case of ``bench.cases`` timed, by the engine or by diffusers: seconds, profile, memory."""

import time

import torch

from bench.cases import Case, tiny
from bench.contestants import operations, request_of, work
from bench.gpu_blocks.bench import Bench
from models.memory.estimate import GB, request_memory, resident_weights
from models.memory.peak import peak_bytes
from testbed.random_engine import RandomModel


def measure(bench: Bench, case: Case) -> None:
    """Time the engine, tell its memory and the kernels of a step or a decode. Raises as the engine does."""
    case = tiny(case) if bench.tiny else case
    began = time.perf_counter()
    model = RandomModel(case.variant, bench.device, bench.dtype, text_encoder=case.kind == "end")
    task = work(case, model, bench.folder)
    peak = peak_bytes(task.ours, bench.device)
    first_s = time.perf_counter() - began
    seconds = bench.seconds(task.ours, 1 if case.kind == "end" else 2)
    rate = f"{operations(case) / seconds / 1e12:.3g} TFLOP/s; ready and once done after {first_s:.1f} s"
    bench.found("figure", case.name, seconds, "s", wanted=case.target_s, note=rate)
    for phase, phase_s in task.laps.seconds.items():
        bench.found("figure", f"{case.name}, {phase}", phase_s, "s")
    _tell_memory(bench, case, model, peak)
    if case.kind != "end":
        bench.profiled(task.ours)


def _tell_memory(bench: Bench, case: Case, model: RandomModel, peak: int) -> None:
    """Tell what was allocated at most, and on CUDA what was reserved, beside the estimate."""
    note = f"estimated {_said(case, model) / GB:.2f} GB"
    bench.found("figure", f"{case.name}, memory", (model.weight_bytes + peak) / GB, "GB", note=note)
    if bench.device.type == "cuda":
        reserved = torch.cuda.max_memory_reserved(bench.device)
        bench.found("figure", f"{case.name}, memory reserved", reserved / GB, "GB", note=note)


def measure_diffusers(bench: Bench, case: Case) -> None:
    """Time diffusers, untuned in the same dtype, once after a warm-up."""
    case = tiny(case) if bench.tiny else case
    task = work(case, RandomModel(case.variant, bench.device, bench.dtype), bench.folder)
    bench.found("figure", f"{case.name} by diffusers", bench.seconds(task.diffusers, 1), "s")


def _said(case: Case, model: RandomModel) -> int:
    """Return the engine's own estimate beforehand: weights and the request."""
    itemsize, tuning = model.dtype.itemsize, case.tuning
    weights = resident_weights(model.elements, itemsize, case.variant, fp8=tuning.fp8, offload=tuning.offload)
    return weights + request_memory(case.variant, request_of(case), itemsize, scratch=model.scratch).peak
