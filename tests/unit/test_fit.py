"""Sizes that follow the shape of a picture."""

import pytest

from models.fit import side_of_shape, size_of_shape
from models.variants import VARIANTS

SHAPES = [
    (480, 832),
    (832, 480),
    (960, 640),
    (9, 16),
    (3, 2),
    (1, 2),
    (1920, 1080),
    (4032, 3024),
    (3, 7),
    (5, 1),
]
FULL_SIZE = [variant for variant in VARIANTS.values() if variant.width * variant.height > 300_000]


def of_wan(shape: tuple[int, int], multiple: int, area: int) -> tuple[int, int]:
    """Return what ``best_output_size`` of Wan 2.2's repository returns."""
    ratio = shape[0] / shape[1]
    width, height = (area * ratio) ** 0.5, (area / ratio) ** 0.5
    width_1 = int(width // multiple * multiple)
    height_1 = int(area / width_1 // multiple * multiple)
    height_2 = int(height // multiple * multiple)
    width_2 = int(area / height_2 // multiple * multiple)
    ratio_1, ratio_2 = width_1 / height_1, width_2 / height_2
    if max(ratio / ratio_1, ratio_1 / ratio) < max(ratio / ratio_2, ratio_2 / ratio):
        return width_1, height_1
    return width_2, height_2


@pytest.mark.parametrize("variant", FULL_SIZE, ids=lambda variant: variant.name)
def test_a_pictures_shape_gives_the_size_that_wans_own_generator_takes(variant):
    for shape in SHAPES:
        expected = of_wan(shape, variant.size_multiple, variant.width * variant.height)
        assert size_of_shape(variant, shape) == expected, shape


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=lambda variant: variant.name)
def test_any_shape_gives_a_size_that_the_model_makes(variant):
    for shape in [*SHAPES, (1, 1), (1, 16_800_000), (16_800_000, 1), (variant.width, variant.height)]:
        width, height = size_of_shape(variant, shape)
        assert width % variant.size_multiple == height % variant.size_multiple == 0
        assert width * height <= variant.width * variant.height
        assert 0 < width <= 4096 and 0 < height <= 4096
    assert size_of_shape(variant, (variant.width, variant.height)) == (variant.width, variant.height)


def test_a_small_model_rather_leaves_some_area_than_the_shape():
    assert size_of_shape(VARIANTS["demo"], (100, 100)) == (96, 96)


def test_the_other_side_of_one_that_was_sent_keeps_the_shape_within_the_largest_area():
    variant = VARIANTS["wan2.1-i2v-14b-480p"]
    assert side_of_shape(variant, 480, 832 / 480) == 832
    assert side_of_shape(variant, 480, 1.0) == 480
    assert 832 * side_of_shape(variant, 832, 10.0) <= variant.max_area
