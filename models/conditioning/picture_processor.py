"""What CLIP is shown of a picture: its middle square, small, in the units that it was trained on."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models.engine import Picture

_MEAN, _DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_SIDE, _RESAMPLE, _SCALE = 224, Image.Resampling.BICUBIC, 1 / 255
_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")


@dataclass(frozen=True, slots=True)
class PictureProcessor:
    """Resizes by Pillow, crops and normalises, to the bits of transformers' ``CLIPImageProcessor``.

    Not that on torchvision, which resizes a little differently: installed packages must not change a video.
    """

    side: int = _SIDE
    """Of the square, and of the shorter edge before it is cut out."""
    resample: Image.Resampling = _RESAMPLE
    scale: float = _SCALE
    mean: tuple[float, ...] = _MEAN
    deviation: tuple[float, ...] = _DEVIATION

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Read ``preprocessor_config.json``. Raises ``ValueError`` or ``OSError`` where that is none of
        CLIP's.
        """
        stored = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        for step in _STEPS:
            if not stored.get(step, True):
                raise ValueError(f"{step} must be true")
        side = _edge(stored.get("size", {}), "shortest_edge")
        if (
            not side
            == _edge(stored.get("crop_size", {}), "height")
            == _edge(stored.get("crop_size", {}), "width")
        ):
            raise ValueError("size and crop_size must be the same")
        return cls(
            side,
            Image.Resampling(stored.get("resample", _RESAMPLE)),
            float(stored.get("rescale_factor", _SCALE)),
            tuple(map(float, stored.get("image_mean", _MEAN))),
            tuple(map(float, stored.get("image_std", _DEVIATION))),
        )

    def __call__(self, pictures: list[Picture]) -> Tensor:
        """Process pictures, ``[n, 3, side, side]`` in float32."""
        return torch.from_numpy(np.stack([self._processed(picture) for picture in pictures]))

    def _processed(self, picture: Picture) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
        height, width = picture.shape[:2]
        shorter = min(height, width)
        size = int(self.side * width / shorter), int(self.side * height / shorter)
        resized = np.asarray(Image.fromarray(picture).resize(size, self.resample))
        left, top = ((edge - self.side) // 2 for edge in size)
        square = resized[top : top + self.side, left : left + self.side]
        values = (square.astype(np.float64) * self.scale).astype(np.float32)
        mean, deviation = (np.array(each, dtype=np.float32) for each in (self.mean, self.deviation))
        return np.ascontiguousarray(((values - mean) / deviation).transpose(2, 0, 1))


def _edge(size: object, edge: str) -> int:
    if isinstance(size, dict):
        size = size.get(edge, _SIDE)
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"{edge} must be a number of pixels")
    return size
