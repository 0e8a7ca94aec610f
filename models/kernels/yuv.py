"""Frames as YUV 4:2:0 in the way of ffmpeg, in plain torch: this defines the numbers."""

import torch
import torch.nn.functional as F
from torch import Tensor

RED, BLUE = 0.2126, 0.0722
"""Shares of luma in BT.709; green has the rest."""
_SHARPNESS = 0.6
"""Parameter of the bicubic filter that ffmpeg halves the height of chroma with."""


def yuv420p(chunk: Tensor) -> Tensor:
    """Return the frames as YUV 4:2:0, uint8 ``[n, height · 3 / 2, width]``, within a level of ffmpeg's own
    conversion of the RGB levels (BT.709, 16 … 235 and 16 … 240).

    Made of sums and products with numbers alone: no constant is copied to the device, and no precision of
    matrix products or convolutions that is set elsewhere has a part in it.
    """
    frames, _, height, width = chunk.shape
    red, green, blue = (chunk.float() * 0.5 + 0.5).unbind(1)
    luma = RED * red + (1.0 - RED - BLUE) * green + BLUE * blue
    planes = [16.0 + 219.0 * luma]
    for colour, share in ((blue, BLUE), (red, RED)):
        planes.append(128.0 + _halved((colour - luma) * (224.0 / (2.0 - 2.0 * share))))
    joined = torch.cat([plane.flatten(1) for plane in planes], dim=1)
    return joined.round().clamp(0.0, 255.0).to(torch.uint8).view(frames, height * 3 // 2, width)


def _halved(plane: Tensor) -> Tensor:
    """Halve ``[n, height, width]`` as ffmpeg does chroma: means of two columns, then a bicubic filter over
    eight rows, of which those beyond an edge are like the edge.
    """
    height = plane.shape[1]
    narrow = (plane[:, :, 0::2] + plane[:, :, 1::2]) * 0.5
    padded = F.pad(narrow[:, None], (0, 0, 3, 3), mode="replicate")[:, 0]
    halved = torch.zeros_like(narrow[:, 0::2])
    for number, tap in enumerate(TAPS):  # the filter is symmetric
        other = len(TAPS) * 2 - 1 - number
        rows = padded[:, number : number + height : 2] + padded[:, other : other + height : 2]
        halved = torch.add(halved, rows, alpha=tap)
    return halved


def _bicubic(distance: float) -> float:
    """Return the weight of a row at ``distance`` rows of the result (Keys 1981, with a = −0.6)."""
    a, d = -_SHARPNESS, distance
    return (a + 2) * d**3 - (a + 3) * d**2 + 1 if d < 1 else a * (d**3 - 5 * d**2 + 8 * d - 4)


TAPS = tuple(_bicubic((3.5 - row) / 2) / 2 for row in range(4))
"""Weights of the four rows above the middle of the result's row, the furthest first."""
