"""The exponential moving average of measured times."""

_WEIGHT_OF_NEWEST = 0.3


def updated_average(average: float | None, newest: float) -> float:
    """Return the average after one more measurement; ``average`` None: before the first one."""
    return newest if average is None else average + _WEIGHT_OF_NEWEST * (newest - average)
