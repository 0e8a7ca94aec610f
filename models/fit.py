"""Fitting of a video's size and length to a variant's limits. Imports no torch."""

from dataclasses import dataclass
from math import isqrt, sqrt

from models.errors import InvalidRequest
from models.variants import Variant

_LONGEST_SIDE = 4096
"""Pixels of the long side of a size that follows a shape: a strip is cut rather than made longer."""
_MAX_DEPARTURE = 1.1
"""How far, as a factor, the shape may depart from the picture's to fill the area."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A size and length the model can make, and a sentence for each change."""

    width: int
    height: int
    num_frames: int
    notes: tuple[str, ...] = ()


def frames_for(fps: int, seconds: float) -> int:
    """Return the frame count of the form 4k + 1 closest to this duration."""
    return 4 * round(fps * seconds / 4) + 1


def size_of_shape(variant: Variant, shape: tuple[int, int], area: int | None = None) -> tuple[int, int]:
    """The width and height of an area, by default ``variant``'s own, that come closest to a picture's shape.

    As Wan 2.2's ``best_output_size`` has it: both sides are multiples of what the model needs, the area is
    not exceeded, and of rounding the width first or the height first the one that keeps the shape better.
    ``shape`` is a width and a height of any unit, ``area`` in pixels.
    """
    width, height = shape
    multiple, area = variant.size_multiple, area or variant.width * variant.height
    longest = min(_to_multiple(area // multiple, multiple), _LONGEST_SIDE)

    def side(pixels: int) -> int:
        return min(_to_multiple(pixels, multiple), longest)

    by_width = side(isqrt(area * width // height))
    by_height = side(isqrt(area * height // width))
    sizes = (by_width, side(area // by_width)), (side(area // by_height), by_height)

    def departure(size: tuple[int, int]) -> float:
        one, other = size[0] * height, size[1] * width
        return max(one / other, other / one)

    best = min(reversed(sizes), key=departure)  # of two alike Wan takes the second
    if departure(best) > _MAX_DEPARTURE:  # a small area has few sizes: rather less of it than a lost shape
        return min(best, (by_width, by_height), key=departure)
    return best


def side_of_shape(variant: Variant, sent: int, ratio: float) -> int:
    """The other side of a size whose one side was sent, in pixels: ``ratio`` of it, in the largest area."""
    multiple = variant.size_multiple
    wanted = max(round(sent * ratio / multiple), 1) * multiple
    return max(min(wanted, variant.max_area // sent // multiple * multiple, _LONGEST_SIDE), multiple)


def fit(variant: Variant, width: int, height: int, num_frames: int) -> Fit:
    """Fit a requested size and length to ``variant``, with a note for each change.

    Raises ``InvalidRequest`` for a number below 1, or beyond the limits of a variant that refuses oversize
    requests.
    """
    for name, value in (("width", width), ("height", height), ("num_frames", num_frames)):
        if value < 1:
            raise InvalidRequest(f"{name} must be at least 1, not {value}.", field=name)
    (fit_width, fit_height), size_notes = _fit_size(variant, width, height)
    fit_frames, frame_notes = _fit_frames(variant, num_frames)
    return Fit(fit_width, fit_height, fit_frames, size_notes + frame_notes)


def _fit_size(variant: Variant, width: int, height: int) -> tuple[tuple[int, int], tuple[str, ...]]:
    fitted = _to_multiple(width, variant.size_multiple), _to_multiple(height, variant.size_multiple)
    if fitted[0] * fitted[1] > variant.max_area:
        if variant.oversize == "refuse":
            raise InvalidRequest(
                f"{width}x{height} is too large: {variant.name} makes at most {variant.max_area} pixels "
                f"a frame (width times height), such as {variant.width}x{variant.height}.",
                field="width",
            )
        fitted = _shrink(variant, width, height)
        return fitted, (
            f"The size was shrunk from {width}x{height} to {fitted[0]}x{fitted[1]}, because "
            f"{variant.name} makes at most {variant.max_area} pixels a frame.",
        )
    if fitted == (width, height):
        return fitted, ()
    verb = "rounded down" if fitted[0] <= width and fitted[1] <= height else "raised"
    return fitted, (
        f"The size was {verb} from {width}x{height} to {fitted[0]}x{fitted[1]}, because "
        f"{variant.name} needs multiples of {variant.size_multiple} pixels.",
    )


def _fit_frames(variant: Variant, num_frames: int) -> tuple[int, tuple[str, ...]]:
    stride = variant.temporal_stride
    fitted = num_frames // stride * stride + 1  # the nearest 4k + 1; of two equally near ones the smaller
    if fitted > variant.max_frames:
        if variant.oversize == "refuse":
            raise InvalidRequest(
                f"{num_frames} frames are too many: {variant.name} makes at most {variant.max_frames}.",
                field="num_frames",
            )
        return variant.max_frames, (
            f"The video was shortened from {num_frames} to {variant.max_frames} frames, the most that "
            f"{variant.name} makes.",
        )
    if fitted == num_frames:
        return fitted, ()
    return fitted, (
        f"The frame count was changed from {num_frames} to {fitted}, because {variant.name} makes "
        f"{stride}k + 1 frames.",
    )


def _to_multiple(size: int, multiple: int) -> int:
    return max(size // multiple * multiple, multiple)


def _shrink(variant: Variant, width: int, height: int) -> tuple[int, int]:
    """Return the largest allowed size of about this aspect ratio; extreme ratios change."""
    multiple, scale = variant.size_multiple, sqrt(variant.max_area / (width * height))
    fit_width = _to_multiple(int(width * scale), multiple)
    fit_height = _to_multiple(int(height * scale), multiple)
    if fit_width * fit_height > variant.max_area:
        if fit_width > fit_height:
            fit_width = _to_multiple(variant.max_area // fit_height, multiple)
        else:
            fit_height = _to_multiple(variant.max_area // fit_width, multiple)
    return fit_width, fit_height
