"""Where the two experts of a model are during its runs, by what the device has room for. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass

from models.engine import GenerationRequest
from models.memory.estimate import GB, KernelScratch, request_memory, resident_weights
from models.parallel.plan import ParallelPlan
from models.tuning import Tuning
from models.variants import Variant


@dataclass(frozen=True, slots=True)
class ExpertRoom:
    """Bytes that decide whether both experts stay on the device, or each is there in its turn."""

    both: int
    """On the device, with both experts and a run of the model's own size."""
    one: int
    """The same with one expert."""
    waiting: int
    """In the host's memory, where experts take turns: both of them, for every rank of the group."""
    free: int
    """Free on the device."""
    host_free: int

    @property
    def in_turn(self) -> bool:
        """Whether the experts take turns: both do not fit, and one does."""
        return self.one <= self.free < self.both and self.waiting <= self.host_free

    def __str__(self) -> str:
        free = f"of {self.free / GB:.1f} GB free"
        if self.in_turn:
            taken = f"{self.one / GB:.1f} GB {free}; both would take {self.both / GB:.1f} GB"
            return f"one expert at a time is on the device, which takes {taken}"
        return f"both experts stay on the device, which takes {self.both / GB:.1f} GB {free}"


def expert_room(
    variant: Variant,
    elements: Mapping[str, int],
    itemsize: int,
    plan: ParallelPlan,
    scratch: KernelScratch,
    *,
    free: int,
    host_free: int,
) -> ExpertRoom:
    """Estimate what either way takes on one device of a group. ``elements``: of each part that it holds."""
    request = GenerationRequest.of(variant, "")
    run = request_memory(variant, request, itemsize, plan, scratch).needed()
    both, one = (
        run + resident_weights(elements, itemsize, variant, offload=offload)
        for offload in ("none", "experts")
    )
    experts = sum(count for part, count in elements.items() if part.startswith("transformer"))
    return ExpertRoom(both, one, experts * itemsize * plan.devices, free, host_free)


def may_take_turns(tuning: Tuning, variant: Variant) -> bool:
    """Return whether the settings leave it to the engine where a model's experts are: ``compile`` and ``fp8``
    exclude offloading.
    """
    excluded = tuning.compile or tuning.fp8
    return variant.boundary is not None and tuning.offload == "none" and not excluded
