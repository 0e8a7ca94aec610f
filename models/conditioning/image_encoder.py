"""The image encoder: pictures to CLIP embeddings."""

from torch import Tensor

from models.conditioning.picture_processor import PictureProcessor
from models.engine import Picture
from models.networks.clip_vision import CLIPVision


class ImageEncoder:
    """CLIP's vision tower up to its penultimate layer, whose hidden states Wan was trained on.

    Every rank of a group encodes the pictures by itself: one or two pictures of 257 tokens cost less than a
    broadcast.
    """

    def __init__(self, processor: PictureProcessor, encoder: CLIPVision) -> None:
        self._processor = processor
        self.encoder = encoder

    def encode(self, pictures: list[Picture]) -> Tensor:
        """Embed pictures, ``[pictures, 257, dim]``: a class token and 256 patch tokens for each."""
        pixels = self._processor(pictures).to(self.encoder.device, self.encoder.dtype)
        embeddings: Tensor = self.encoder(pixels)
        return embeddings
