"""What torch sees of this machine, as one line of JSON: ``python -m models.speed.device_report``.

A process of its own, since a broken driver or library may hang it or end it.
"""

import json
from typing import Any

import torch

from models.attention.kernels import KERNELS, why_not

_HEAD_DIM = 128
"""Of all Wan models."""


def report() -> dict[str, Any]:
    """Return torch's version, its CUDA, the devices, and of each attention kernel why it cannot run here."""
    count = torch.cuda.device_count()
    device = torch.device("cuda" if count else "cpu")
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "devices": [_device(index) for index in range(count)],
        "attention": {name: why_not(name, device, torch.bfloat16, _HEAD_DIM) for name in KERNELS},
    }


def _device(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "capability": [properties.major, properties.minor],
    }


if __name__ == "__main__":
    print(json.dumps(report()))
