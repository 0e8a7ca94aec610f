"""The requests that benchmarks make: each variant's own defaults. Imports no torch."""

from typing import Any

from models.engine import GenerationRequest
from models.variants import Variant

PROMPT = "a red cat runs along the beach at sunset, waves behind it"


def default_request(variant: Variant, **changes: Any) -> GenerationRequest:
    """Return a request for ``PROMPT`` with seed 42 and the variant's defaults, but for ``changes``."""
    return GenerationRequest.of(variant, PROMPT, **{"seed": 42} | changes)
