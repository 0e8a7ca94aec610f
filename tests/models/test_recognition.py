"""A folder in the diffusers layout says itself which variant it is."""

from pathlib import Path

import pytest

from models.errors import WeightsError
from models.variants import VARIANTS
from models.weights import recognition
from models.weights.folder import WeightsFolder
from models.weights.recognition import recognised

from .checkpoints import save_checkpoint, small

BASES = ["wan2.1-t2v-1.3b", "wan2.1-i2v-14b-480p", "wan2.1-flf2v-14b", "wan2.1-vace-1.3b"]
BASES += ["wan2.2-t2v-a14b", "wan2.2-i2v-a14b", "wan2.2-ti2v-5b"]


@pytest.mark.parametrize("name", BASES)
def test_each_kind_of_model_is_told_from_the_others(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recognition, "VARIANTS", {base: small(base) for base in BASES})
    save_checkpoint(small(name), tmp_path)
    assert recognised(WeightsFolder(tmp_path)).name == name


def test_the_demo_model_is_recognised_and_never_as_distilled(demo_weights: Path) -> None:
    assert recognised(WeightsFolder(demo_weights)) is VARIANTS["demo"]


def test_a_folder_of_no_known_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"has no model_index\.json"):
        recognised(WeightsFolder(tmp_path))
    save_checkpoint(small("wan2.1-t2v-1.3b"), tmp_path)  # of fewer layers than any
    with pytest.raises(WeightsError, match=r"none of the known variants: demo, wan2\.1-t2v-1\.3b"):
        recognised(WeightsFolder(tmp_path))
