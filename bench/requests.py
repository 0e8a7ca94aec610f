"""The requests that benchmarks make: each variant's own defaults. Imports no torch."""

from typing import Any

from models.engine import GenerationRequest
from models.variants import Variant

PROMPT = "a red cat runs along the beach at sunset, waves behind it"


def default_request(variant: Variant, **changes: Any) -> GenerationRequest:
    defaults: dict[str, Any] = {
        "prompt": PROMPT,
        "negative_prompt": variant.negative_prompt,
        "width": variant.width,
        "height": variant.height,
        "num_frames": variant.num_frames,
        "fps": variant.fps,
        "steps": variant.steps,
        "guidance_scale": variant.guidance_scale,
        "guidance_scale_2": variant.guidance_scale_2,
        "flow_shift": variant.flow_shift,
        "seed": 42,
    }
    return GenerationRequest(**defaults | changes)
