"""The blocks of a run in the order of their worth, each with its limit in seconds and the gates before it.

Imports no torch: the process that starts the blocks needs none of what they do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from bench.cases import CASES, Case

if TYPE_CHECKING:
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
_THEN = ("decode-480p-fp8", "14b-480p-compile", "14b-480p-fp8-compile")
_LARGE = ("14b-720p", "decode-720p", "14b-480p-4-steps-fp8-flash3_fp8")
_BY_DIFFUSERS = ("14b-480p", "decode-480p")


@dataclass(frozen=True, slots=True)
class Work:
    """A function of a module of this package, imported when it is called, with a case if it takes one."""

    module: str
    function: str = "measure"
    case: Case | None = None

    def __call__(self, bench: "Bench") -> None:
        """Do the work."""
        work = getattr(import_module(f"{__package__}.{self.module}"), self.function)
        work(bench) if self.case is None else work(bench, self.case)


@dataclass(frozen=True, slots=True)
class Block:
    """A block: what it does, the most seconds that it may take, and the gates that must be passed before."""

    name: str
    work: "Callable[[Bench], None]"
    limit_s: float
    gates: tuple[str, ...] = ()
    compiles: bool = False


def _plan() -> tuple[Block, ...]:
    by_name = {case.name: case for case in CASES}
    first, then, large = ([by_name[name] for name in names] for names in (_FIRST, _THEN, _LARGE))
    rest = [case for case in CASES if case not in (*first, *then, *large)]
    return (
        Block("device", Work("device"), 25.0),
        Block("gpu-tests", Work("gpu_tests"), 60.0),
        Block("attention", Work("attention"), 45.0),
        Block("products", Work("products"), 25.0),
        *(Block(f"gate-{gate}", Work("gates", gate), 30.0) for gate in _GATES),
        *map(_case, first),
        Block("convolutions", Work("convolutions"), 45.0),
        Block("convolutions-8-bits", Work("eight_bit_convolutions"), 45.0),
        *(_by_diffusers(by_name[name]) for name in _BY_DIFFUSERS),
        Block("gate-compiled", Work("gates", "compiled"), _COMPILING_S, compiles=True),
        *map(_case, (*then, *large)),
        Block("text-encoder", Work("text_encoder"), 30.0),
        *map(_case, rest),
        Block("gpu-tests-slow", Work("gpu_tests", "measure_slow"), 120.0, compiles=True),
    )


_GATES = ("exact", "decode", "fp8", "flash3_fp8", "sparse", "vae_fp8")
"""Gates of what is not compiled."""


def _case(case: Case) -> Block:
    tuning = case.tuning
    wanted = {
        "exact": case.kind != "decode",
        "decode": case.kind != "step",
        "fp8": tuning.fp8,
        "flash3_fp8": tuning.attention == "flash3_fp8",
        "sparse": tuning.sparsity > 0,
        "vae_fp8": tuning.vae_fp8,
        "compiled": tuning.compile,
    }
    return Block(
        case.name,
        Work("timing", case=case),
        _LIMITS_S[case.kind] + (_COMPILING_S if tuning.compile else 0.0),
        tuple(name for name, is_wanted in wanted.items() if is_wanted),
        tuning.compile,
    )


def _by_diffusers(case: Case) -> Block:
    return Block(f"diffusers-{case.name}", Work("timing", "measure_diffusers", case), 75.0)


PLAN = _plan()
_WORKS = [block.work for block in PLAN if isinstance(block.work, Work)]
MODULES = tuple(f"{__package__}.{name}" for name in ("running", *{work.module: None for work in _WORKS}))
"""Full names of the modules that the blocks need, for the process that imports them once."""
