"""Pictures to image embeddings."""

from typing import Any

from torch import Tensor

from models.engine import Picture


class ImageEncoder:
    """CLIP's vision tower, up to its last layer but one, which is where Wan was trained to read it.

    Every rank of a group encodes the pictures by itself: one or two of 257 tokens are less work than telling
    the others.
    """

    def __init__(self, processor: Any, encoder: Any) -> None:
        self._processor = processor
        self.encoder = encoder

    def encode(self, pictures: list[Picture]) -> Tensor:
        """Embeddings ``[pictures, 257, dim]``: for each, one of the whole and one of every patch."""
        processed = self._processor(images=pictures, input_data_format="channels_last", return_tensors="pt")
        pixels: Tensor = processed.pixel_values.to(self.encoder.device, self.encoder.dtype)
        layers: tuple[Tensor, ...] = self.encoder(pixels, output_hidden_states=True).hidden_states
        return layers[-2]
