"""The order of a video's tokens in which each stretch of it is a compact neighbourhood."""

import torch
from torch import Tensor


def neighbourhood_order(frames: int, height: int, width: int, device: torch.device) -> Tensor:
    """Return the tokens of a grid, numbered by frame, row and column, in their order along a Z-order curve
    (Morton 1966): a token's place is the bits of its three coordinates interleaved.

    Where the grid allows, 128 tokens in a row are 4 frames of 4 rows of 8 columns; at its edges, and where
    its sides are no powers of two, they are others nearby. ``[frames · height · width]``, int64; computed on
    ``device``, for which nothing waits.
    """
    frame, row, column = (
        _spread(side, axis, device) for axis, side in ((2, frames), (1, height), (0, width))
    )
    places = frame[:, None, None] + row[:, None] + column
    return places.flatten().argsort()


def _spread(side: int, axis: int, device: torch.device) -> Tensor:
    """Return the numbers below ``side`` with their bits three places apart, the lowest at ``axis``."""
    numbers = torch.arange(side, device=device)
    spread = torch.zeros_like(numbers)
    for bit in range((side - 1).bit_length()):
        spread += (numbers >> bit & 1) << (3 * bit + axis)
    return spread
