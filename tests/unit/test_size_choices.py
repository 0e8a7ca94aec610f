"""Sizes to choose among: each model's own is there, and all of them are made without a change."""

import pytest

from models.fit import fit
from models.size_choices import area_of_lines, size_choices
from models.variants import VARIANTS, Variant


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_every_choice_is_a_size_that_the_model_makes(variant: Variant) -> None:
    choices = size_choices(variant)
    assert (variant.width, variant.height) in {(choice.width, choice.height) for choice in choices}
    assert len({(choice.tier, choice.ratio) for choice in choices}) == len(choices)
    for choice in choices:
        assert fit(variant, choice.width, choice.height, 5).notes == (), choice
        width, height = map(int, choice.ratio.split(":"))
        assert choice.width / choice.height == pytest.approx(width / height, rel=0.15)


def test_a_tier_has_the_pixels_that_the_model_offers_by_its_name() -> None:
    for variant in VARIANTS.values():
        for choice in size_choices(variant):
            area = area_of_lines(variant, int(choice.tier.removesuffix("p")))
            assert 0.6 * area <= choice.width * choice.height <= area, (variant.name, choice)
    assert area_of_lines(VARIANTS["wan2.2-ti2v-5b"], 720) == 1280 * 704
    assert area_of_lines(VARIANTS["wan2.1-t2v-14b"], 1080) == 1920 * 1080


def test_a_large_model_offers_two_tiers_and_a_small_one_its_own() -> None:
    tiers = {name: {choice.tier for choice in size_choices(VARIANTS[name])} for name in VARIANTS}
    assert tiers["wan2.1-t2v-14b"] == tiers["wan2.2-ti2v-5b"] == {"480p", "720p"}
    assert tiers["wan2.1-t2v-1.3b"] == {"480p"} and len(tiers["demo"]) == 1
