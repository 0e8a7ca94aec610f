"""The text encoder at its real size: a short prompt, and one as long as the model reads."""

from dataclasses import replace

from bench.gpu_blocks.bench import Bench
from bench.requests import PROMPT
from models.limits import TEXT_TOKENS
from models.variants import VARIANTS
from testbed.random_engine import RandomModel

_SMALL = VARIANTS["demo"]
"""A variant whose other parts take next to nothing."""


def measure(bench: Bench) -> None:
    """Measure the encoding of both prompts, neither of them from the cache."""
    variant = replace(_SMALL, text_dim=64 if bench.tiny else 4096)
    model = RandomModel(variant, bench.device, bench.dtype, text_encoder=True)
    for name, prompt in (("short", PROMPT), (f"{TEXT_TOKENS} tokens", "red " * TEXT_TOKENS)):
        seconds = bench.seconds(lambda: model.text.encode(prompt))  # noqa: B023
        bench.found("figure", f"prompt, {name}", seconds * 1e3, "ms")
