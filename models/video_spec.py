"""The spec of a video: every number decided. A request adds the pictures, a stored task adds their keys."""

from dataclasses import dataclass, fields
from typing import Any, Self

from models.variants import Variant


@dataclass(frozen=True, slots=True)
class LoraUse:
    """A LoRA by the name it has among the engine's own, and how strongly it is to act; 0 is not at all."""

    name: str
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class VideoSpec:
    """One video to make. Everything is decided: no field is left to the engine's choice. Sizes in pixels.

    The fragments of a long video are made one after the other: each of ``num_frames`` frames, each but the
    first beginning with the end of the one before (``Variant.overlap`` frames, which are shown once).
    """

    prompt: str
    negative_prompt: str
    width: int
    height: int
    num_frames: int
    """Of each fragment, the shared ones counted in."""
    fps: int
    steps: int
    """Of each fragment."""
    guidance_scale: float
    flow_shift: float
    seed: int
    guidance_scale_2: float | None = None
    """Guidance of the low-noise expert; None means that of the other one."""
    loras: tuple[LoraUse, ...] = ()
    num_fragments: int = 1

    @classmethod
    def of(cls, variant: Variant, prompt: str, **asked: Any) -> Self:
        """Fill in the variant's defaults for every field that ``asked`` lacks or has as None; seed 0."""
        defaults: dict[str, Any] = {
            "negative_prompt": variant.negative_prompt,
            "width": variant.width,
            "height": variant.height,
            "num_frames": variant.num_frames,
            "fps": variant.fps,
            "steps": variant.steps,
            "guidance_scale": variant.guidance_scale,
            "guidance_scale_2": variant.guidance_scale_2,
            "flow_shift": variant.flow_shift,
            "seed": 0,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        return cls(prompt=prompt, **(defaults | given))

    @classmethod
    def from_spec(cls, spec: "VideoSpec", **more: Any) -> Self:
        """Copy the fields of ``spec`` into a subclass and set ``more`` fields of that subclass."""
        return cls(**{field.name: getattr(spec, field.name) for field in fields(VideoSpec)}, **more)

    @property
    def total_steps(self) -> int:
        """Denoise steps of all fragments together."""
        return self.steps * self.num_fragments
