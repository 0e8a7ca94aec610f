"""Does the device work at all: what it is, its clocks and power, and whether it computes and copies."""

import shutil
import subprocess

import torch

from bench.gpu_blocks.bench import Bench
from bench.machine import describe

_QUERY = "name,driver_version,memory.total,clocks.sm,clocks.mem,power.limit,temperature.gpu"
_BYTES = 2**30


def describe_device(bench: Bench) -> None:
    """Tell the machine, and nvidia-smi's line where there is one."""
    on_gpu = bench.device.type == "cuda"
    bench.found(
        "note", "machine", note=describe(torch.cuda.get_device_name(bench.device) if on_gpu else None)
    )
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        bench.found("note", "nvidia-smi", note=done.stdout.strip() or done.stderr.strip())


def copy_bandwidth(bench: Bench) -> None:
    """Measure how fast memory is read and written."""
    source = torch.ones(_BYTES // (1024 if bench.tiny else 1), dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    seconds = bench.seconds(lambda: target.copy_(source))
    bench.found("figure", "copy bandwidth", 2 * source.nbytes / seconds / 1e12, "TB/s")


def measure(bench: Bench) -> None:
    """Tell what the device is, and how fast it copies."""
    describe_device(bench)
    copy_bandwidth(bench)
