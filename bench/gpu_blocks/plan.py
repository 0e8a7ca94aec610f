"""The blocks of a run in the order of their worth, each with its limit in seconds and the gates before it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from bench.cases import CASES, Case
from bench.gpu_blocks import attention, convolutions, device, gates, products, timing
from bench.gpu_blocks.bench import Bench

_LIMITS_S = {"step": 75.0, "decode": 45.0, "end": 75.0}
_COMPILING_S = 90.0
_FIRST = (
    "14b-480p",
    "decode-480p",
    "14b-480p-fp8",
    "14b-480p-fp8-flash3_fp8",
    "14b-480p-4-steps",
    "1.3b-480p-4-steps",
)
_BY_DIFFUSERS = ("14b-480p", "decode-480p")


@dataclass(frozen=True, slots=True)
class Block:
    """A block: what it does, the most seconds that it may take, and the gates that must be passed before."""

    name: str
    work: Callable[[Bench], None]
    limit_s: float
    gates: tuple[str, ...] = ()
    compiles: bool = False


def _plan() -> tuple[Block, ...]:
    by_name = {case.name: case for case in CASES}
    first = [by_name[name] for name in _FIRST]
    rest = [case for case in CASES if case.name not in _FIRST]
    return (
        Block("device", device.measure, 25.0),
        Block("gate-exact", gates.exact, 30.0),
        Block("gate-decode", gates.decode, 30.0),
        Block("gate-fp8", gates.fp8, 30.0),
        Block("gate-flash3_fp8", gates.flash3_fp8, 30.0),
        Block("gate-sparse", gates.sparse, 30.0),
        Block("attention", attention.measure, 30.0),
        Block("products", products.measure, 25.0),
        *map(_case, first),
        Block("convolutions", convolutions.measure, 45.0),
        *(_by_diffusers(by_name[name]) for name in _BY_DIFFUSERS),
        Block("gate-compiled", gates.compiled, _COMPILING_S, compiles=True),
        *map(_case, rest),
    )


def _case(case: Case) -> Block:
    tuning = case.tuning
    wanted = {
        "exact": case.kind != "decode",
        "decode": case.kind != "step",
        "fp8": tuning.fp8,
        "flash3_fp8": tuning.attention == "flash3_fp8",
        "sparse": tuning.sparsity > 0,
        "compiled": tuning.compile,
    }
    return Block(
        case.name,
        partial(timing.measure, case=case),
        _LIMITS_S[case.kind] + (_COMPILING_S if tuning.compile else 0.0),
        tuple(name for name, is_wanted in wanted.items() if is_wanted),
        tuning.compile,
    )


def _by_diffusers(case: Case) -> Block:
    return Block(f"diffusers-{case.name}", partial(timing.measure_diffusers, case=case), 75.0)


PLAN = _plan()
