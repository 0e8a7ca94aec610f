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
"""Video pixels decoded in one chunk on a CPU, and in one of tiles: enough to keep it busy, few enough to
bound its memory.
"""

CUDA_CHUNK_PIXELS = 8 * 1280 * 720
"""The same on a CUDA device: four latent frames at 832x480. No tensor of the decoder has more than 192 values
for each of them, and so none has 2³¹, from where on cuDNN's kernels are slow; unless one latent frame does.
"""

CHUNKS_AHEAD = 16
"""Chunks whose latent frames pass together through the decoder's layers of the lowest resolution, where a
tensor has a sixty-fourth of the values of the largest.
"""

MAX_REFERENCES = 4
"""Most reference pictures that a model takes."""

MAX_LORAS = 8
"""Most LoRAs of one request."""

MAX_LORA_STRENGTH = 10.0
"""Largest absolute value of a LoRA's strength."""
