"""Checks, before any work is done, that a device's free memory is enough for the weights and for a run."""

import logging
from collections.abc import Iterable
from math import prod
from pathlib import Path

import torch

from models.engine import EngineSettings, GenerationRequest
from models.errors import OutOfMemory, WeightsError
from models.memory.estimate import (
    GB,
    KernelScratch,
    WeightsGrowth,
    most_frames,
    parameters,
    request_memory,
    resident_weights,
)
from models.memory.experts import expert_room, may_take_turns
from models.parallel.plan import ParallelPlan
from models.tuning import Offload, Tuning
from models.variants import Variant
from models.weights.checkpoint_contents import read_contents
from models.weights.safetensors_header import StoredTensor, stored_tensors, weight_files

_LOGGER = logging.getLogger(__name__)

_CGROUP = Path("/sys/fs/cgroup")

_DECODER = ("decoder.", "post_quant_conv.")
"""What the names of the decoder's tensors begin with, in diffusers' VAE."""


def free_bytes(device: torch.device) -> int:
    """Return the bytes available to new tensors: free memory plus torch's unused cache."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    import psutil  # imported here: GPU machines need not have it

    available = int(psutil.virtual_memory().available)
    return min(available, container_headroom(_CGROUP, available))


def check_memory(
    variant: Variant,
    request: GenerationRequest,
    device: torch.device,
    dtype: torch.dtype,
    plan: ParallelPlan,
    scratch: KernelScratch,
    movable_bytes: int = 0,
    growth: WeightsGrowth | None = None,
) -> int:
    """Return the bytes that a run needs on the device. Raises ``OutOfMemory`` if they are more than are free,
    with both figures and what would fit.

    ``movable_bytes``: bytes on the device that will make room for the run; ``growth``: of the weights there,
    until its stages; None for none.
    """
    growth = growth or WeightsGrowth()
    free = free_bytes(device) + movable_bytes
    itemsize = dtype.itemsize
    needed = request_memory(variant, request, itemsize, plan, scratch).needed(growth)
    if needed <= free:
        return needed
    frames = most_frames(variant, request, itemsize, plan, free, scratch, growth)
    advice = "ask for a smaller size" if frames is None else f"at this size, {frames} frames fit"
    raise OutOfMemory(
        f"{request.num_frames} frames of {request.width}x{request.height} need {needed / GB:.1f} GB on the "
        f"device and {free / GB:.1f} GB are free: {advice}."
    )


def check_weights(
    folder: Path,
    settings: EngineSettings,
    device: torch.device,
    dtype: torch.dtype,
    has_text: bool = True,
    *,
    plan: ParallelPlan | None = None,
    scratch: KernelScratch | None = None,
) -> Offload:
    """Return the offloading with which the device has room for the weights of ``folder``: that of the
    settings, or one expert at a time where both do not fit on a GPU and nothing forbids it.

    ``folder``: the local folder of ``settings.weights``; ``has_text``: whether this process loads the text
    encoder. Raises ``WeightsError`` if the device's free memory is not enough.
    """
    tuning, variant, free = Tuning.from_options(settings.options), settings.variant, free_bytes(device)
    parts = [part for part in parameters(variant) if has_text or part != "text_encoder"]
    elements = {part: _elements(_tensors(part, folder, settings)) for part in parts}
    if tuning.vae_float16:  # in bfloat16 there is a second decoder
        elements["vae"] += _elements(
            tensor for tensor in _tensors("vae", folder, settings) if tensor.name.startswith(_DECODER)
        )
    offload = tuning.offload
    if device.type == "cuda" and may_take_turns(tuning, variant):
        room = expert_room(
            variant,
            elements,
            dtype.itemsize,
            plan or ParallelPlan(),
            scratch or KernelScratch(),
            free=free,
            host_free=free_bytes(torch.device("cpu")),
        )
        _LOGGER.info("%s: %s", variant.name, room)
        offload = "experts" if room.in_turn else "none"
    needed = resident_weights(elements, dtype.itemsize, variant, fp8=tuning.fp8, offload=offload)
    if needed > free:
        raise WeightsError(
            f"The weights of {folder} need {needed / GB:.1f} GB on {device} and {free / GB:.1f} GB are free."
        )
    return offload


def holds_originals(
    folder: Path,
    settings: EngineSettings,
    device: torch.device,
    dtype: torch.dtype,
    plan: ParallelPlan,
    offload: Offload,
) -> bool:
    """Return whether there is memory for the originals of all the transformer's weights, beside the weights:
    on the device, or in the host's memory, which the ranks of a group share.
    """
    variant, fp8 = settings.variant, Tuning.from_options(settings.options).fp8
    elements = {part: _elements(_tensors(part, folder, settings)) for part in parameters(variant)}
    transformers = [part for part in elements if part.startswith("transformer")]
    originals = sum(elements[part] for part in transformers) * dtype.itemsize
    on_device = resident_weights(elements, dtype.itemsize, variant) + originals
    if device.type == "cpu":
        return plan.devices * on_device <= free_bytes(device)
    on_host = (1 if offload == "none" else 2) * originals  # where they are offloaded, weights are there, too
    if plan.devices * on_host <= free_bytes(torch.device("cpu")):
        return True
    return offload == "none" and not fp8 and on_device <= free_bytes(device)


def _tensors(part: str, folder: Path, settings: EngineSettings) -> Iterable[StoredTensor]:
    """List the stored tensors of a part: of a file that replaces a transformer only the transformer's."""
    if part in settings.replaced:
        return read_contents(settings.replaced[part]).transformer.values()
    return [tensor for file in weight_files(folder / part) for tensor in stored_tensors(file)]


def _elements(tensors: Iterable[StoredTensor]) -> int:
    """Count the elements of tensors of any dtype."""
    return sum(prod(tensor.shape) for tensor in tensors)


def container_headroom(cgroup: Path, unlimited: int) -> int:
    """Return the bytes left under a container's limit. Its file cache counts as free: the kernel reclaims it.

    ``unlimited`` is the result without a limit.
    """
    try:
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text())
        figures = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        return max(limit - used + int(figures["inactive_file"]), 0)
    except (OSError, ValueError, KeyError):  # no container, no limit ("max") or an older kernel's files
        return unlimited
