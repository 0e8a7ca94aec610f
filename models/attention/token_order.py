"""The order of a video's tokens in which each stretch of it is a compact neighbourhood."""

import torch
from torch import Tensor


def neighbourhood_order(frames: int, height: int, width: int, device: torch.device) -> Tensor:
    """Return the tokens of a grid, numbered ``(frame, row, column)`` in that order, along a Z-order curve
    (Morton 1966): the bits of the three coordinates interleaved are a token's place.

    Where the grid allows, 128 tokens in a row are 4 frames of 4 rows of 8 columns; at its edges, and where
    its sides are no powers of two, they are others nearby. ``[frames · height · width]``, int64; computed on
    ``device``, which nothing waits for.
    """
    sides = frames, height, width
    numbers = torch.arange(frames * height * width, device=device)
    coordinates = (numbers // (height * width), numbers // width % height, numbers % width)
    place = torch.zeros_like(numbers)
    for bit in range(max(sides).bit_length()):
        for axis, coordinate in enumerate(reversed(coordinates)):
            place += (coordinate >> bit & 1) << (3 * bit + axis)
    return place.argsort()
