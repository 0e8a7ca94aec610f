"""The exponential moving average by which measured times follow a machine that changes."""

_WEIGHT_OF_NEWEST = 0.3


def moved(average: float | None, newest: float) -> float:
    """The average after one more measurement; ``None`` is that of none so far."""
    return newest if average is None else average + _WEIGHT_OF_NEWEST * (newest - average)
