"""The spec of a video, with every number set. A request adds the pictures, a stored task adds their keys."""

from dataclasses import dataclass, fields
from typing import Any, Self

from models.variants import Variant


@dataclass(frozen=True, slots=True)
class LoraUse:
    """Use of one of the engine's LoRAs, by name, at a strength; 0 has no effect."""

    name: str
    strength: float = 1.0
    strength_low: float | None = None
    """Strength for the low-noise expert of a model with two; None means ``strength``."""

    @property
    def strengths(self) -> tuple[float, float]:
        """Strengths for the high-noise and the low-noise expert; the first is that of an only expert."""
        return self.strength, self.strength if self.strength_low is None else self.strength_low


@dataclass(frozen=True, slots=True)
class VideoSpec:
    """A video to make. Every field is set: the engine chooses nothing. Sizes are in pixels.

    A long video is made in fragments, one after the other. Each has ``num_frames`` frames, and each but the
    first begins with the last ``Variant.overlap`` frames of the fragment before, which are shown once.
    """

    prompt: str
    negative_prompt: str
    width: int
    height: int
    num_frames: int
    """Frames of each fragment, including the overlap."""
    fps: int
    steps: int
    """Denoise steps of each fragment."""
    guidance_scale: float
    flow_shift: float
    seed: int
    guidance_scale_2: float | None = None
    """Guidance scale of the low-noise expert; None means ``guidance_scale``."""
    loras: tuple[LoraUse, ...] = ()
    """Their effects add up; see ``models.lora_uses`` for the bounds."""
    num_fragments: int = 1

    @classmethod
    def of(cls, variant: Variant, prompt: str, **asked: Any) -> Self:
        """Build a spec from ``asked``, with the variant's defaults for fields missing or None; seed 0."""
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
    def loras_key(self) -> str | None:
        """Names of the LoRAs as one text, the same for every use of them together; None without any."""
        return ", ".join(lora.name for lora in self.loras) or None

    @property
    def total_steps(self) -> int:
        """Number of denoise steps in all fragments together."""
        return self.steps * self.num_fragments
