"""Preparation of a CUDA device, before an engine allocates anything on it."""

import os

import torch

_ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
_ALLOCATOR = "expandable_segments:True"
"""Denoising and decoding need memory in different pieces. In segments that grow, free pieces join, so
that all that ``models.memory.check.free_bytes`` counts as free can be allocated.
"""


def prepare(device: torch.device) -> None:
    """Make ``device`` the current one of this thread, and let its memory's segments grow.

    Events, and kernels that are launched by themselves, go to the current device, not to that of a tensor.
    Does nothing on a CPU; settings of torch's allocator in the environment stay as they are.
    """
    if device.type != "cuda":
        return
    if not any(name in os.environ for name in _ALLOCATOR_VARIABLES):
        torch._C._accelerator_setAllocatorSettings(_ALLOCATOR)
    if device.index is not None:
        torch.cuda.set_device(device)
