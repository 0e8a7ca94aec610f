"""The image encoder: pictures to CLIP embeddings."""

from typing import Any

from torch import Tensor

from models.engine import Picture


class ImageEncoder:
    """CLIP's vision tower up to its penultimate layer, whose hidden states Wan was trained on.

    Every rank of a group encodes the pictures by itself: one or two pictures of 257 tokens cost less than a
    broadcast.
    """

    def __init__(self, processor: Any, encoder: Any) -> None:
        self._processor = processor
        self.encoder = encoder

    def encode(self, pictures: list[Picture]) -> Tensor:
        """Embed pictures, ``[pictures, 257, dim]``: a class token and 256 patch tokens for each."""
        processed = self._processor(images=pictures, input_data_format="channels_last", return_tensors="pt")
        pixels: Tensor = processed.pixel_values.to(self.encoder.device, self.encoder.dtype)
        layers: tuple[Tensor, ...] = self.encoder(pixels, output_hidden_states=True).hidden_states
        return layers[-2]
