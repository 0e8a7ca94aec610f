"""The device memory that each model needs, in GB, by the engine's own estimate: a calculation."""

import argparse

from bench.requests import default_request
from models.memory.estimate import GB, KernelScratch, parameters, request_memory, resident_weights
from models.variants import VARIANTS, Variant

_ITEMSIZE = 2
_COLUMNS = (
    "model",
    "weights",
    "fp8",
    "offload: experts",
    "offload: model",
    "offload: group",
    "a default video",
    "together",
)


def main(arguments: list[str]) -> int:
    """Print the table of all variants."""
    argparse.ArgumentParser(prog="scripts/bench memory", description=__doc__).parse_args(arguments)
    print(
        "GB in bfloat16 on one device; a default video: of the model's own size and frames, with guidance.\n"
    )
    print(f"| {' | '.join(_COLUMNS)} |")
    print("|" + "---|" * len(_COLUMNS))
    for variant in VARIANTS.values():
        if not variant.distilled:  # a distilled one needs what its base does
            print(f"| {' | '.join(cells(variant))} |")
    return 0


def cells(variant: Variant) -> tuple[str, ...]:
    """Return the row of a variant, in GB."""
    counted = parameters(variant)
    weights = resident_weights(counted, _ITEMSIZE, variant)
    request = request_memory(
        variant, default_request(variant), _ITEMSIZE, scratch=KernelScratch(fused=True, volumes=True)
    ).peak
    sizes = (
        weights,
        resident_weights(counted, _ITEMSIZE, variant, fp8=True),
        resident_weights(counted, _ITEMSIZE, variant, offload="experts") if variant.boundary else None,
        resident_weights(counted, _ITEMSIZE, variant, offload="model"),
        resident_weights(counted, _ITEMSIZE, variant, offload="group"),
        request,
        weights + request,
    )
    return variant.name, *("" if size is None else f"{size / GB:.1f}" for size in sizes)
