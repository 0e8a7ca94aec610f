"""The most memory that some work holds at once, beside what was there before it."""

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Run ``work`` and give the growth of torch's allocator at its fullest moment.

    On the CPU torch's profiler tells of every allocation, which makes the work slower. What libraries
    allocate past torch is not seen on either device.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        work()
    return _peak_on_cpu(recorded)


def _peak_on_cpu(recorded: profile) -> int:
    assert recorded.profiler is not None
    results: Any = recorded.profiler.kineto_results
    live = peak = 0
    for event in sorted(results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()  # negative where memory is given back
            peak = max(peak, live)
    return peak
