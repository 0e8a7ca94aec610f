"""The engine's speed settings, parsed from ``EngineSettings.options``.

Imports no torch, so that a service can check the settings before it starts a replica. A setting that cannot
work on a device, with a model or without a library is refused when the engine loads; none is ignored.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from math import floor, isfinite
from typing import Annotated, Any, Literal, Self, get_args, get_type_hints

from models.errors import TuningError

Attention = Literal["auto", "sdpa", "cudnn", "flash2", "flash3", "flash3_fp8", "sage", "xformers"]
Offload = Literal["none", "experts", "model", "group"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Speed and memory settings of a loaded model. The defaults do not change results."""

    attention: Annotated[
        Attention,
        "The kernel of self-attention: auto measures the exact ones that are installed, once, at start, and "
        "takes the one preferred on the device unless another is clearly faster; flash3_fp8 and sage compute "
        "in 8 bits.",
    ] = "auto"
    sparsity: Annotated[
        float,
        "Share of the blocks of 128 keys that self-attention leaves out, those that score lowest with each "
        "block of queries; 0 leaves out none; not in a ring of devices.",
    ] = 0.0
    exact_steps: Annotated[
        float,
        "Share of a run's steps, the first ones and rounded up, in which attention is neither in 8 bits nor "
        "sparse.",
    ] = 0.2
    exact_blocks: Annotated[
        int, "Number of the transformer's blocks, the first ones, of which the same is true in every step."
    ] = 1
    compile: Annotated[
        bool,
        "Compile the transformer's block with torch.compile, for any size, before the engine is ready, in "
        "place of the fused kernels; needs a C++ compiler.",
    ] = False
    fp8: Annotated[
        bool, "Transformer linear layers in 8-bit floats with a scale per row, on Ada and Hopper."
    ] = False
    cache_threshold: Annotated[
        float,
        "Skip the rest of a step whose first block changed by less than this share since the last whole "
        "step; 0 never does; not for distilled models.",
    ] = 0.0
    unguided_steps: Annotated[
        float,
        "Share of a run's steps, the last ones and rounded down, that run without guidance: one forward pass "
        "each in place of two; 0 guides all; not for distilled models.",
    ] = 0.0
    low_resolution_steps: Annotated[
        float,
        "Share of a run's steps, the first ones and rounded down, that run at half the height and width, "
        "with a quarter of the tokens; 0 runs all at full size, as do runs that are shown a picture or go on "
        "from a video; not for models that take pictures as channels or control.",
    ] = 0.0
    offload: Annotated[
        Offload,
        "Weights wait in the host's memory: with experts that of two transformers that is not at work, with "
        "model each part but the one at work, with group the transformer's blocks, too, each a little ahead "
        "of its turn. Two experts that do not fit on a GPU together take turns without being told to.",
    ] = "none"
    vae_tiling: Annotated[
        bool, "Decode overlapping tiles of the picture one after the other: less memory, more time."
    ] = False
    tile_when_full: Annotated[
        bool, "Decode in such tiles only where memory runs out on the whole picture."
    ] = False

    vae_float16: Annotated[
        bool,
        "Decode in float16 in place of bfloat16: as fast, with three more bits in each value; a video that "
        "overflows is decoded in bfloat16, from its first such frames on.",
    ] = False
    vae_fp8: Annotated[
        bool,
        "Decode the two largest resolutions, most of the work, by convolutions in 8-bit floats with a scale "
        "per channel of their results, on Ada and Hopper.",
    ] = False

    @property
    def step_shares(self) -> "StepShares":
        """Shares of a run's steps that cost less."""
        return StepShares(self.unguided_steps, self.low_resolution_steps)

    @classmethod
    def from_options(cls, options: Mapping[str, object]) -> Self:
        """Build from options. Raises ``TuningError`` naming the option and the allowed values."""
        fault = fault_in(options)
        if fault is not None:
            names = ", ".join(option.name for option in OPTIONS)
            raise TuningError(
                f"{fault.name} is not an engine option; there are {names}."
                if fault.reason is None
                else f"{fault.name} {fault.reason}."
            )
        chosen: dict[str, Any] = dict(options)
        return cls(**chosen)


@dataclass(frozen=True, slots=True)
class StepShares:
    """The shares of a run's steps that cost less than its others; see ``Tuning``."""

    unguided: float = 0.0
    low_resolution: float = 0.0


WHOLE_STEPS = StepShares()


def guided_steps(steps: int, unguided: float) -> int:
    """Return how many of a run's steps, the first ones, are guided with this share of ``unguided_steps``."""
    return steps - floor(round(unguided * steps, 6))  # 0.29 of 100 steps is 28.999999999999996


def low_resolution_steps(steps: int, share: float) -> int:
    """Return how many of a run's steps, the first ones, run at half size with this share of them."""
    return steps - guided_steps(steps, share)


@dataclass(frozen=True, slots=True)
class Option:
    """Description of one engine option, for listing and checking."""

    name: str
    default: object
    choices: tuple[str, ...]
    """Allowed words; empty for a boolean or a number."""
    sentence: str

    @property
    def takes(self) -> str:
        """Allowed values, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if isinstance(self.default, bool):
            return "true or false"
        if isinstance(self.default, int):
            return "a whole number, at least 0"
        return "a number, at least 0 and below 1"

    def allows(self, value: object) -> bool:
        """Return whether ``value`` is allowed on some device."""
        if self.choices:
            return value in self.choices
        if isinstance(self.default, bool) or isinstance(value, bool):
            return isinstance(self.default, bool) and isinstance(value, bool)
        if isinstance(self.default, int):
            return isinstance(value, int) and value >= 0
        return isinstance(value, int | float) and isfinite(value) and 0 <= value < 1


def _options() -> Iterator[Option]:
    hints = get_type_hints(Tuning, include_extras=True)
    for field in fields(Tuning):
        kind, sentence = get_args(hints[field.name])
        yield Option(field.name, field.default, get_args(kind), sentence)


OPTIONS = tuple(_options())
"""Options of ``Tuning``, in the order of its fields."""


@dataclass(frozen=True, slots=True)
class Fault:
    """An option that is invalid on any device. ``reason`` follows its name; None: there is no such option."""

    name: str
    reason: str | None


def fault_in(options: Mapping[str, object]) -> Fault | None:
    """Return the first option that is unknown or has a value that is not allowed; None if all are valid."""
    known = {option.name: option for option in OPTIONS}
    for name, value in options.items():
        if name not in known:
            return Fault(name, None)
        if not known[name].allows(value):
            return Fault(name, f"must be {known[name].takes}, not {value!r}")
    return None
