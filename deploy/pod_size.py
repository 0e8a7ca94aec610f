"""The size of a pod with GPUs: estimates for a start, from the parameters of the model it runs."""

from dataclasses import dataclass
from math import ceil
from typing import Any, Self

from models.memory.estimate import parameters
from models.variants import Variant

_GIB = 2**30
_PROCESS_GIB = 6
"""Host memory of a process with torch, CUDA and Ray, besides weights."""
_RAY_GIB = 2
"""Host memory of Ray's own processes in a pod."""
_ITEMSIZE = 2


@dataclass(frozen=True, slots=True)
class PodSize:
    """What a pod asks for; requests and limits are the same."""

    gpus: int
    cpus: int
    memory_gib: int
    """With the shared memory, which counts to it."""
    shared_memory_gib: int

    @classmethod
    def of(cls, variant: Variant, gpus: int) -> Self:
        """Return the size of a pod in which ``gpus`` GPUs make each video together.

        Each process keeps the transformers once in host memory, as experts that take turns or as what LoRAs
        are taken off to; a group has one process a GPU, and the replica.
        """
        processes = gpus + 1 if gpus > 1 else 1
        transformers = sum(
            count * _ITEMSIZE for part, count in parameters(variant).items() if part.startswith("transformer")
        )
        shared = 1 + gpus
        memory = _RAY_GIB + shared + processes * _PROCESS_GIB + gpus * ceil(transformers / _GIB)
        return cls(gpus, cpus=4 + 2 * gpus, memory_gib=memory, shared_memory_gib=shared)

    def resources(self) -> dict[str, Any]:
        """Return the ``resources`` of the pod's container."""
        amounts = {
            "cpu": str(self.cpus),
            "memory": f"{self.memory_gib}Gi",
            "ephemeral-storage": "24Gi",
            "nvidia.com/gpu": str(self.gpus),
        }
        return {"requests": amounts, "limits": amounts}

    def in_chart(self) -> dict[str, int]:
        """Return the row of the chart's table."""
        return {"cpus": self.cpus, "memoryGi": self.memory_gib, "sharedMemoryGi": self.shared_memory_gib}
