"""A block in its process: made ready for the device, and an exception made a finding."""

import os

import torch

from bench.gpu_blocks.bench import Bench
from bench.gpu_blocks.plan import Block
from models.errors import OutOfMemory, TuningError, first_line


def run(block: Block, bench: Bench) -> None:
    """Run one block in this process, the first of a group; an exception becomes a finding."""
    os.setsid()
    if bench.device.type == "cuda":
        torch.cuda.set_device(bench.device)
        # compiled once, for all later blocks
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str((bench.folder / "inductor").resolve()))
    elif bench.tiny:
        torch.set_num_threads(1)
    try:
        block.work(bench)
    except (TuningError, OutOfMemory, torch.OutOfMemoryError) as error:
        bench.found("note", "left out", note=first_line(error))
    except Exception as error:
        bench.found("failure", type(error).__name__, note=first_line(error))
