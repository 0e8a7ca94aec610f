"""Numbers that the engine and the estimates of its memory and work share. Imports no torch."""

TEXT_TOKENS = 512
"""Tokens of a prompt that the transformer attends to; a longer prompt is cut, a shorter one is padded with
zero vectors."""

BATCHED_TOKENS = 4096
"""Up to this sequence length both guidance forwards are one batch; beyond it one keeps the device busy."""

CHUNK_PIXELS = 128 * 1024
"""Video pixels decoded in one go: enough to keep a device busy, few enough to bound its memory."""

MAX_LORA_STRENGTH = 10.0
"""The largest strength of a LoRA, of either sign."""
