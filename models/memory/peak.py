"""Measurement of the peak memory of a piece of work, above the memory in use before it."""

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Run ``work`` and return the peak growth of torch's allocator, in bytes.

    On the CPU, torch's profiler records every allocation, which slows the work down. Allocations that
    libraries make outside torch are not counted on either device.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    return _peak_on_cpu(recorded)


def _peak_on_cpu(recorded: profile) -> int:
    assert recorded.profiler is not None
    results: Any = recorded.profiler.kineto_results
    live = peak = 0
    for event in sorted(results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()  # negative for a deallocation
            peak = max(peak, live)
    return peak
