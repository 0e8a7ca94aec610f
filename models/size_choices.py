"""Sizes to choose among, each by its shape and by how fine it is. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from models.fit import size_of_shape
from models.variants import Variant

_SHAPES = ((16, 9), (3, 2), (4, 3), (1, 1), (3, 4), (2, 3), (9, 16))
_TIERS: Mapping[str, int] = MappingProxyType({"480p": 832 * 480, "720p": 1280 * 720})
"""Pixels of a frame by the name that the field has for them."""
_NEARLY = 0.9
"""Share of a tier's pixels from which a model's own area has its name: 1280x704 is 720p, too."""
_MAX_DEPARTURE = 1.15
"""How far, as a factor, a size may depart from the shape that it is offered for."""


@dataclass(frozen=True, slots=True)
class SizeChoice:
    """A size in pixels that a model makes, with its shape as ``width:height`` and the name of its tier."""

    tier: str
    ratio: str
    width: int
    height: int


def area_of_lines(variant: Variant, lines: int) -> int:
    """Return the pixels of a frame that is called by its lines: 832x480 for 480p.

    Where the model has a size of its own by that name, those of that size (1280x704 for 720p), and of a name
    that the field has no size for, those of a 16:9 frame.
    """
    return _areas(variant).get(f"{lines}p", lines * (lines * 16 // 9))


def size_choices(variant: Variant) -> Sequence[SizeChoice]:
    """Return the sizes to offer, coarse tiers first and wide shapes first; each size once.

    A tier that the model has no pixels for is left out, and so is a shape that its multiples miss.
    """
    found: list[SizeChoice] = []
    for tier, area in sorted(_areas(variant).items(), key=lambda item: item[1]):
        if area <= variant.max_area:
            found += _of_tier(variant, tier, area)
    return found


def _areas(variant: Variant) -> Mapping[str, int]:
    """Return the pixels of a frame by tier; that of the model's own size has its pixels."""
    return {**_TIERS, _tier_of(variant): variant.width * variant.height}


def _of_tier(variant: Variant, tier: str, area: int) -> Sequence[SizeChoice]:
    best: dict[tuple[int, int], tuple[float, SizeChoice]] = {}
    own = (variant.width, variant.height)
    for shape in _SHAPES:
        size = size_of_shape(variant, shape, area)
        if area == own[0] * own[1] and _departure(own, shape) == min(_departure(own, any) for any in _SHAPES):
            size = own
        departure = _departure(size, shape)
        if departure <= best.get(size, (_MAX_DEPARTURE, None))[0]:
            best[size] = departure, SizeChoice(tier, f"{shape[0]}:{shape[1]}", *size)
    return sorted((choice for _, choice in best.values()), key=lambda choice: -choice.width / choice.height)


def _departure(size: tuple[int, int], shape: tuple[int, int]) -> float:
    one, other = size[0] * shape[1], size[1] * shape[0]
    return max(one / other, other / one)


def _tier_of(variant: Variant) -> str:
    """Return the name of the tier that a model's own size is of, else one by its height."""
    for tier, area in _TIERS.items():
        if _NEARLY <= variant.width * variant.height / area <= 1 / _NEARLY:
            return tier
    return f"{variant.height}p"
