"""Bytes that the devices of a group send each other in a step, and how the step should scale with them.

A calculation: bytes follow from the plan and the model's sizes, seconds from two rates that are given. The
work of a step is taken as split evenly but for the filling of tokens, and nothing as sent while something is
computed. The latency of messages and kernels that do worse on smaller parts are left out, so it is no bound.
"""

import argparse
from dataclasses import dataclass

from bench import flops
from bench.requests import default_request
from models.engine import GenerationRequest
from models.limits import BATCHED_TOKENS
from models.parallel.plan import ParallelPlan, plan
from models.variants import VARIANTS, Variant

_ITEMSIZE = 2
_VELOCITY_ITEMSIZE = 4
_NVLINK_BYTES_S = 450e9
_TFLOPS = 600.0
_COLUMNS = (
    "devices",
    "cfg x ring x ulysses",
    "attention GB",
    "output MB",
    "guidance MB",
    "computing s",
    "sending s",
    "step s",
    "times as fast",
)
_RUNS = (
    ("wan2.1-t2v-14b", 832, 480),
    ("wan2.1-t2v-14b", 1280, 720),
    ("wan2.1-t2v-1.3b", 832, 480),
)


@dataclass(frozen=True, slots=True)
class Sent:
    """Bytes that one device sends in one step. Each receives as many."""

    ulysses: int
    """The queries, keys, values and results of every block's self-attention."""
    ring: int
    """The keys and values of every block that travel around the ring."""
    output: int
    """The parts of the velocity, so that every device has all of it."""
    guidance: int
    """The velocities of the two prompts."""

    @property
    def total(self) -> int:
        """The bytes of all parts together."""
        return self.ulysses + self.ring + self.output + self.guidance


def sent(variant: Variant, request: GenerationRequest, plan: ParallelPlan, itemsize: int = _ITEMSIZE) -> Sent:
    """Count the bytes that ``models.parallel.mesh`` sends; agreements of a few bytes are left out."""
    frames = len(request.references) + variant.latent_frames(request.num_frames)
    row_tokens = variant.tokens(request.width, request.height, 1)
    rows, row_tokens = (frames, row_tokens) if _has_rows(variant, request) else (1, frames * row_tokens)
    local = rows * -(-row_tokens // plan.sequence)
    prompts = prompts_of(variant, request)
    here = prompts_here(variant, request, plan)
    batched = variant.tokens(request.width, request.height, request.num_frames) <= BATCHED_TOKENS
    # the prompts of a batch share one video up to the first block's attention to text
    first = (2 if variant.control_blocks else 1) if batched else 0
    attentions = (variant.layers + variant.control_blocks) * here - first * (here - 1)
    of_block = local * variant.dim * itemsize
    output = local * variant.latent_channels * variant.patch**2 * itemsize * here
    return Sent(
        ulysses=4 * attentions * of_block * (plan.ulysses - 1) // plan.ulysses,
        ring=2 * attentions * of_block * (plan.ring - 1),
        output=output * (plan.ulysses - 1) + output * plan.ulysses * (plan.ring - 1),
        guidance=_velocity_bytes(variant, request, frames) if here < prompts else 0,
    )


def prompts_of(variant: Variant, request: GenerationRequest) -> int:
    """Return the number of prompts that a step denoises: two with guidance."""
    return 1 if variant.distilled or request.guidance_scale <= 1 else 2


def prompts_here(variant: Variant, request: GenerationRequest, plan: ParallelPlan) -> int:
    """Return the number of prompts that one device follows."""
    return max(prompts_of(variant, request) // plan.cfg, 1)


def _has_rows(variant: Variant, request: GenerationRequest) -> bool:
    return variant.expand_timesteps and request.image is not None


def _velocity_bytes(variant: Variant, request: GenerationRequest, frames: int) -> int:
    pixels = (request.height // variant.spatial_stride) * (request.width // variant.spatial_stride)
    return variant.latent_channels * frames * pixels * _VELOCITY_ITEMSIZE


@dataclass(frozen=True, slots=True)
class Scaling:
    """The calculated time of a step on so many devices."""

    computing_s: float
    sending_s: float

    @property
    def step_s(self) -> float:
        """The seconds of a step: sending is not overlapped with computing."""
        return self.computing_s + self.sending_s


def scaling(
    variant: Variant, request: GenerationRequest, plan: ParallelPlan, tflops: float, bytes_s: float
) -> Scaling:
    """Calculate the time of a step, at ``tflops`` TFLOP/s and ``bytes_s`` bytes a second for each device."""
    forward = flops.forward(variant, request.width, request.height, request.num_frames).total
    tokens = variant.tokens(request.width, request.height, request.num_frames)
    filled = -(-tokens // plan.sequence) * plan.sequence / tokens
    passes = prompts_here(variant, request, plan)
    return Scaling(
        computing_s=forward * passes * filled / plan.sequence / tflops / 1e12,
        sending_s=sent(variant, request, plan).total / bytes_s,
    )


def main(arguments: list[str]) -> int:
    """Print the bytes that are sent and how the step should scale."""
    parser = argparse.ArgumentParser(prog="scripts/bench communication", description=__doc__)
    parser.add_argument(
        "--tflops", type=float, default=_TFLOPS, help=f"that a device computes at ({_TFLOPS:g})"
    )
    parser.add_argument(
        "--gb-s", type=float, default=_NVLINK_BYTES_S / 1e9, help="that a device sends at (450: NVLink 4)"
    )
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    options = parser.parse_args(arguments)
    print(f"Calculated at {options.tflops:g} TFLOP/s and {options.gb_s:g} GB/s for each device, in bfloat16.")
    for name, width, height in _RUNS:
        variant = VARIANTS[name]
        request = default_request(variant, width=width, height=height)
        print(f"\n{name}, {width}x{height}, {request.num_frames} frames, a step with guidance:\n")
        print(f"| {' | '.join(_COLUMNS)} |")
        print("|" + "---|" * len(_COLUMNS))
        for devices in options.devices:
            chosen = plan(devices, variant.heads, guidance=True)
            print(f"| {' | '.join(_cells(variant, request, chosen, options.tflops, options.gb_s * 1e9))} |")
    return 0


def _cells(
    variant: Variant, request: GenerationRequest, plan: ParallelPlan, tflops: float, bytes_s: float
) -> tuple[str, ...]:
    volumes = sent(variant, request, plan)
    alone = scaling(variant, request, ParallelPlan(), tflops, bytes_s)
    shared = scaling(variant, request, plan, tflops, bytes_s)
    return (
        str(plan.devices),
        f"{plan.cfg} x {plan.ring} x {plan.ulysses}",
        f"{(volumes.ulysses + volumes.ring) / 1e9:.2f}",
        f"{volumes.output / 1e6:.1f}",
        f"{volumes.guidance / 1e6:.1f}",
        f"{shared.computing_s:.3f}",
        f"{shared.sending_s:.3f}",
        f"{shared.step_s:.3f}",
        f"{alone.step_s / shared.step_s:.2f}",
    )
