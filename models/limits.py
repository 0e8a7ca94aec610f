"""Limits shared by the engine and the estimates of its memory and work. Imports no torch."""

TEXT_TOKENS = 512
"""Number of text tokens the transformer attends to; a longer prompt is truncated, a shorter one is padded
with zero vectors.
"""

BATCHED_TOKENS = 4096
"""Sequence length up to which both guidance forwards run as one batch; beyond it, one forward fills the
device.
"""

CHUNK_PIXELS = 128 * 1024
"""Video pixels decoded in one chunk: enough to keep a device busy, few enough to bound its memory."""

MAX_LORAS = 8
"""Most LoRAs of one request."""

MAX_LORA_STRENGTH = 10.0
"""Largest absolute value of a LoRA's strength."""
