"""What a block is given: the device, the scale, and where its findings go."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from bench.gpu_blocks.finding import Finding, Findings, Kind

_KERNELS = 20


@dataclass(frozen=True, slots=True)
class Bench:
    """A block's place in the run."""

    block: str
    findings: Findings
    device: torch.device
    tiny: bool
    folder: Path

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the models: bfloat16 on CUDA, else float32."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def found(
        self,
        kind: Kind,
        name: str,
        value: float | None = None,
        unit: str = "",
        *,
        wanted: float | None = None,
        note: str = "",
    ) -> None:
        """Append a finding."""
        self.findings.add(
            Finding(block=self.block, kind=kind, name=name, value=value, unit=unit, wanted=wanted, note=note)
        )

    def wait(self) -> None:
        """Wait until the device has done all that is queued."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object], repeats: int = 5) -> float:
        """Return the median time of some calls, after one that is not measured."""
        work()
        times = []
        for _ in range(repeats):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    def profiled(self, work: Callable[[], object]) -> None:
        """Run ``work`` once more under torch's profiler, and tell the kernels that take the most of it."""
        on_gpu = self.device.type == "cuda"
        activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
        with profile(activities=[activity], acc_events=True) as recorded:
            work()
            self.wait()
        spent = [
            (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.count, event.key)
            for event in recorded.key_averages()
        ]
        total = sum(microseconds for microseconds, *_ in spent) or 1.0
        for microseconds, count, name in sorted(spent, reverse=True)[:_KERNELS]:
            note = f"{microseconds / total:.1%}, {count} calls"
            self.found("kernel", name[:100], microseconds / 1e3, "ms", note=note)
