"""Bytes that the devices of a group send each other in a step, and how the step should scale with them.

A calculation: bytes and messages follow from the plan and the model's sizes, seconds from two rates and the
latency of a message, which are given. The work of a step is taken as split evenly but for the filling of
tokens. Kernels that do worse on smaller parts, and on fewer processors while others of theirs send, are left
out, so it is no bound.
"""

import argparse
from dataclasses import dataclass

from bench import flops
from bench.requests import default_request
from models.engine import GenerationRequest
from models.limits import BATCHED_TOKENS
from models.parallel.plan import ParallelPlan, plan
from models.tuning import Tuning
from models.variants import VARIANTS, Variant

_ITEMSIZE = 2
_FLOAT = 4
"""Bytes of a float32: of a velocity's numbers, of scales and of sums."""
_NVLINK_BYTES_S = 450e9
_LATENCY_S = 20e-6
_TFLOPS = 600.0
_COLUMNS = (
    "devices",
    "cfg x ring x ulysses",
    "attention GB",
    "output MB",
    "guidance MB",
    "computing s",
    "messages",
    "sending s",
    "hidden s",
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
    means: int
    """What a ring tells of its keys before they travel in 8 bits: their sums, for the mean of all."""
    output: int
    """The parts of the velocity, so that every device has all of it."""
    guidance: int
    """The velocities of the two prompts."""
    attentions: int
    """Self-attentions, each of a prompt or of a batch of them. Ulysses exchanges four times in each; a ring
    passes keys and values on together.
    """
    in_8_bits: int
    """How many of these have keys and values that travel around a ring in 8 bits."""
    gathers: int
    """Messages of ``output`` and ``guidance``."""

    @property
    def total(self) -> int:
        """The bytes of all parts together."""
        return self.ulysses + self.ring + self.means + self.output + self.guidance

    def messages(self, plan: ParallelPlan) -> int:
        """Count the times that a device begins to send."""
        each = (4 if plan.ulysses > 1 else 0) + plan.ring - 1
        return self.attentions * each + self.in_8_bits + self.gathers


def sent(
    variant: Variant,
    request: GenerationRequest,
    plan: ParallelPlan,
    itemsize: int = _ITEMSIZE,
    *,
    blocks_in_8_bits: int = 0,
) -> Sent:
    """Count the bytes that ``models.parallel.mesh`` sends; agreements of a few bytes are left out.

    ``blocks_in_8_bits``: the last blocks, which attend in 8 bits; never all of them.
    """
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
    in_8_bits = blocks_in_8_bits * here if plan.ring > 1 else 0
    # bytes of the keys and values of an attention in 8 bits, with a float32 scale for each head of either
    of_block_in_8_bits = local * variant.dim + variant.heads // plan.ulysses * _FLOAT
    travelling = (attentions - in_8_bits) * of_block + in_8_bits * of_block_in_8_bits
    output = local * variant.latent_channels * variant.patch**2 * itemsize * here
    passes = 1 if batched else here
    gathers = passes * ((plan.ulysses > 1) + (plan.ring > 1))
    return Sent(
        ulysses=4 * attentions * of_block * (plan.ulysses - 1) // plan.ulysses,
        ring=2 * travelling * (plan.ring - 1),
        means=in_8_bits * variant.dim // plan.ulysses * _FLOAT * (plan.ring - 1),
        output=output * (plan.ulysses - 1) + output * plan.ulysses * (plan.ring - 1),
        guidance=_velocity_bytes(variant, request, frames) if here < prompts else 0,
        attentions=(variant.layers + variant.control_blocks) * passes,
        in_8_bits=blocks_in_8_bits * passes if plan.ring > 1 else 0,
        gathers=gathers + (here < prompts),
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
    return variant.latent_channels * frames * pixels * _FLOAT


@dataclass(frozen=True, slots=True)
class Rates:
    """What a device is taken to do: operations a second, bytes sent a second, and seconds of each message."""

    flops: float = _TFLOPS * 1e12
    bytes_s: float = _NVLINK_BYTES_S
    latency_s: float = _LATENCY_S

    def sending_s(self, messages: float, sent: float) -> float:
        """Return the seconds of so many messages with so many bytes together."""
        return messages * self.latency_s + sent / self.bytes_s


@dataclass(frozen=True, slots=True)
class Scaling:
    """The calculated time of a step on so many devices."""

    computing_s: float
    sending_s: float
    hidden_s: float
    """Of the sending, what goes on while something is computed."""

    @property
    def step_s(self) -> float:
        """The seconds of a step."""
        return self.computing_s + self.sending_s - self.hidden_s


def scaling(
    variant: Variant,
    request: GenerationRequest,
    plan: ParallelPlan,
    rates: Rates,
    *,
    blocks_in_8_bits: int = 0,
) -> Scaling:
    """Calculate the time of a step; ``blocks_in_8_bits``: see ``sent``. What 8 bits spare of the computing
    is left out.
    """
    forward = flops.forward(variant, request.width, request.height, request.num_frames)
    tokens = variant.tokens(request.width, request.height, request.num_frames)
    filled = -(-tokens // plan.sequence) * plan.sequence / tokens
    here = forward.times(prompts_here(variant, request, plan))
    volumes = sent(variant, request, plan, blocks_in_8_bits=blocks_in_8_bits)
    share = filled / plan.sequence / rates.flops
    # of one self-attention: each of its three products, and its attention, of which the text's is a hundredth
    product_s = 2 * tokens * variant.dim**2 * share * prompts_here(variant, request, plan)
    product_s *= (variant.layers + variant.control_blocks) / volumes.attentions
    attention_s = here.attention * share / volumes.attentions
    hidden_s = _hidden_by_products(volumes, plan, rates, product_s)
    hidden_s += _hidden_by_attention(volumes, plan, rates, attention_s)
    return Scaling(
        computing_s=here.total * share,
        sending_s=rates.sending_s(volumes.messages(plan), volumes.total),
        hidden_s=volumes.attentions * hidden_s,
    )


def _hidden_by_products(volumes: Sent, plan: ParallelPlan, rates: Rates, product_s: float) -> float:
    """Return the seconds of an attention's exchange that pass while its products are computed: values leave
    during that of the keys, keys during that of the queries. Queries and results leave by themselves.
    """
    if plan.ulysses == 1:
        return 0.0
    exchange_s = rates.sending_s(1, volumes.ulysses / volumes.attentions / 4)
    free_at = 0.0
    for ready_at in (product_s, 2 * product_s, 3 * product_s):
        free_at = max(free_at, ready_at) + exchange_s
    return 3 * exchange_s - (free_at - 3 * product_s)


def _hidden_by_attention(volumes: Sent, plan: ParallelPlan, rates: Rates, attention_s: float) -> float:
    """Return the seconds of an attention's ring that pass while it attends to the parts of the keys."""
    if plan.ring == 1:
        return 0.0
    shifts = plan.ring - 1
    shift_s = rates.sending_s(1, volumes.ring / volumes.attentions / shifts)
    return shifts * min(shift_s, attention_s / plan.ring)


def main(arguments: list[str]) -> int:
    """Print the bytes that are sent and how the step should scale."""
    parser = argparse.ArgumentParser(prog="scripts/bench communication", description=__doc__)
    parser.add_argument(
        "--tflops", type=float, default=_TFLOPS, help=f"that a device computes at ({_TFLOPS:g})"
    )
    parser.add_argument(
        "--gb-s", type=float, default=_NVLINK_BYTES_S / 1e9, help="that a device sends at (450: NVLink 4)"
    )
    parser.add_argument(
        "--latency-us",
        type=float,
        default=_LATENCY_S * 1e6,
        help="microseconds of each message beside its bytes (20, an assumption)",
    )
    parser.add_argument(
        "--ring-in-8-bits",
        action="store_true",
        help="keys and values travel around a ring in 8 bits, as with attention flash3_fp8",
    )
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    options = parser.parse_args(arguments)
    rates = Rates(options.tflops * 1e12, options.gb_s * 1e9, options.latency_us / 1e6)
    print(
        f"Calculated at {options.tflops:g} TFLOP/s and {options.gb_s:g} GB/s for each device and "
        f"{options.latency_us:g} µs for each message, in bfloat16."
    )
    for name, width, height in _RUNS:
        variant = VARIANTS[name]
        request = default_request(variant, width=width, height=height)
        print(f"\n{name}, {width}x{height}, {request.num_frames} frames, a step with guidance:\n")
        print(f"| {' | '.join(_COLUMNS)} |")
        print("|" + "---|" * len(_COLUMNS))
        for devices in options.devices:
            chosen = plan(devices, variant.heads, guidance=True)
            exact = Tuning().exact_blocks if options.ring_in_8_bits else variant.layers
            print(f"| {' | '.join(_cells(variant, request, chosen, rates, variant.layers - exact))} |")
    return 0


def _cells(
    variant: Variant, request: GenerationRequest, plan: ParallelPlan, rates: Rates, in_8_bits: int
) -> tuple[str, ...]:
    volumes = sent(variant, request, plan, blocks_in_8_bits=in_8_bits)
    alone = scaling(variant, request, ParallelPlan(), rates)
    shared = scaling(variant, request, plan, rates, blocks_in_8_bits=in_8_bits)
    return (
        str(plan.devices),
        f"{plan.cfg} x {plan.ring} x {plan.ulysses}",
        f"{(volumes.ulysses + volumes.ring) / 1e9:.2f}",
        f"{volumes.output / 1e6:.1f}",
        f"{volumes.guidance / 1e6:.1f}",
        f"{shared.computing_s:.3f}",
        str(volumes.messages(plan)),
        f"{shared.sending_s:.3f}",
        f"{shared.hidden_s:.3f}",
        f"{shared.step_s:.3f}",
        f"{alone.step_s / shared.step_s:.2f}",
    )
