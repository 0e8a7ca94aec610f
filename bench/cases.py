"""The measurements at the sizes that Wan is used at, as data: name, model, size, settings, target."""

from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from models.tuning import Tuning
from models.variants import VARIANTS, Variant

Kind: TypeAlias = Literal["step", "decode", "end"]
"""A guided step, the decode of one video, or a whole run of a distilled model to its MP4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A measurement: a model, a size, settings, and the seconds that it may take."""

    name: str
    kind: Kind
    variant: Variant
    width: int
    height: int
    num_frames: int = 81
    tuning: Tuning = field(default_factory=Tuning)
    target_s: float | None = None
    """The target: seconds on an H200, at most."""

    @property
    def work(self) -> tuple[Kind, str, int, int, int]:
        """The work that cases of different settings have in common."""
        return self.kind, self.variant.name, self.width, self.height, self.num_frames


def tiny(case: Case) -> Case:
    """Return the case on a model and a size that a CPU does at once, without a target."""
    variant = replace(
        case.variant, layers=2, heads=2, ffn_dim=512, text_dim=64, vae_dim=8, vae_encoder_dim=8, vae_blocks=1
    )
    height = 48 if case.height <= 480 else 64
    return replace(case, variant=variant, width=64, height=height, num_frames=9, target_s=None)


_1_3B, _14B = VARIANTS["wan2.1-t2v-1.3b"], VARIANTS["wan2.1-t2v-14b"]
_14B_STEP = Case(name="14b-480p", kind="step", variant=_14B, width=832, height=480, target_s=5.0)
_14B_720P = replace(_14B_STEP, name="14b-720p", width=1280, height=720, target_s=None)
_14B_END = replace(
    _14B_STEP, name="14b-480p-4-steps", kind="end", variant=VARIANTS["wan2.1-t2v-14b-distill"], target_s=8.0
)
_1_3B_END = replace(
    _14B_END, name="1.3b-480p-4-steps", variant=VARIANTS["wan2.1-t2v-1.3b-distill"], target_s=2.5
)
_DECODE = Case(name="decode-480p", kind="decode", variant=_1_3B, width=832, height=480, target_s=0.6)

CASES = (
    _14B_STEP,
    replace(_14B_STEP, name="14b-480p-fp8", tuning=Tuning(fp8=True), target_s=4.2),
    replace(
        _14B_STEP,
        name="14b-480p-fp8-flash3_fp8",
        tuning=Tuning(fp8=True, attention="flash3_fp8", exact_steps=0.0),
        target_s=3.5,
    ),
    replace(_14B_STEP, name="14b-480p-fp8-sparse", tuning=Tuning(fp8=True, sparsity=0.5, exact_steps=0.0)),
    replace(
        _14B_STEP,
        name="14b-480p-fp8-sage",
        tuning=Tuning(fp8=True, attention="sage", exact_steps=0.0),
        target_s=3.5,
    ),
    _DECODE,
    _14B_END,
    _1_3B_END,
    replace(_14B_STEP, name="1.3b-480p", variant=_1_3B, target_s=None),
    replace(_14B_STEP, name="14b-480p-compile", tuning=Tuning(compile=True)),
    replace(_14B_STEP, name="14b-480p-fp8-compile", tuning=Tuning(fp8=True, compile=True), target_s=4.2),
    replace(
        _14B_STEP,
        name="14b-480p-fp8-sage-compile",
        tuning=Tuning(fp8=True, attention="sage", exact_steps=0.0, compile=True),
        target_s=3.5,
    ),
    replace(_14B_END, name="14b-480p-4-steps-fp8", tuning=Tuning(fp8=True)),
    replace(
        _14B_END,
        name="14b-480p-4-steps-fp8-flash3_fp8",
        tuning=Tuning(fp8=True, attention="flash3_fp8"),
    ),
    replace(_1_3B_END, name="1.3b-480p-4-steps-fp8", tuning=Tuning(fp8=True)),
    replace(_14B_STEP, name="14b-480p-sdpa", tuning=Tuning(attention="sdpa")),
    replace(_14B_STEP, name="14b-480p-cudnn", tuning=Tuning(attention="cudnn")),
    replace(_14B_STEP, name="14b-480p-flash2", tuning=Tuning(attention="flash2")),
    replace(_14B_STEP, name="14b-480p-flash3", tuning=Tuning(attention="flash3")),
    replace(_14B_STEP, name="14b-480p-flash3_fp8", tuning=Tuning(attention="flash3_fp8", exact_steps=0.0)),
    replace(_14B_STEP, name="14b-480p-sparse", tuning=Tuning(sparsity=0.5, exact_steps=0.0)),
    replace(_14B_STEP, name="14b-480p-sage", tuning=Tuning(attention="sage", exact_steps=0.0)),
    replace(_DECODE, name="decode-480p-fp8", tuning=Tuning(vae_fp8=True)),
    replace(_DECODE, name="decode-720p", width=1280, height=720, target_s=None),
    replace(
        _DECODE,
        name="decode-5b",
        variant=VARIANTS["wan2.2-ti2v-5b"],
        width=1280,
        height=704,
        num_frames=121,
        target_s=None,
    ),
    _14B_720P,
    replace(_14B_720P, name="14b-720p-fp8", tuning=Tuning(fp8=True)),
)
"""All cases, in the order in which they are measured while there is time."""
