"""A folder of another variant, or one that lacks something, is refused in a sentence."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from models.errors import WeightsError
from models.variants import Variant

from .checkpoints import base_folders, edit, load_checkpoint, small
from .test_checkpoints import BASES

ALIKE = {"wan2.1-i2v-14b-480p", "wan2.1-i2v-14b-720p"}
"""Variants that differ in what they were trained on, which no configuration says."""
FUN = "wan2.1-fun-inp-1.3b"
"""Differs from these in size alone."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Variant], Path]:
    return base_folders(tmp_path_factory.mktemp("checkpoints"))


@pytest.mark.parametrize("folder_of", BASES)
@pytest.mark.parametrize("name", BASES)
def test_a_folder_is_served_as_its_own_variant_alone(
    folders: Callable[[Variant], Path], folder_of: str, name: str
) -> None:
    if folder_of == name or {folder_of, name} <= ALIKE:
        return
    wanted = small(name)
    if FUN in {name, folder_of} and {name, folder_of} <= {*ALIKE, FUN}:  # which ``small`` makes equal
        wanted = replace(wanted, layers=wanted.layers + 1)
    with pytest.raises(WeightsError, match=f"is not {name}: |must be Wan"):
        load_checkpoint(wanted, folders(small(folder_of)))


BREAKAGES: list[tuple[str, Callable[[Path], object], str]] = [
    ("wan2.2-t2v-a14b", lambda f: shutil.rmtree(f / "transformer_2"), "no"),
    (
        "wan2.2-t2v-a14b",
        lambda f: edit(f / "model_index.json", boundary_ratio=0.9),
        "boundary_ratio should be",
    ),
    ("wan2.2-t2v-a14b", lambda f: edit(f / "model_index.json", boundary_ratio=None), "boundary_ratio should"),
    ("wan2.2-t2v-a14b", lambda f: edit(f / "model_index.json", transformer_2=[None, None]), "second expert"),
    ("wan2.1-i2v-14b-480p", lambda f: shutil.rmtree(f / "image_encoder"), "no folder image_encoder"),
    ("wan2.1-i2v-14b-480p", lambda f: shutil.rmtree(f / "image_processor"), "no folder image_processor"),
    (
        "wan2.1-i2v-14b-480p",
        lambda f: (f / "image_processor" / "preprocessor_config.json").write_text("{"),
        "could not be loaded as an image processor",
    ),
    (
        "wan2.1-i2v-14b-480p",
        lambda f: edit(f / "model_index.json", image_encoder=["transformers", "CLIPTextModel"]),
        "image_encoder is CLIPTextModel, but must be CLIPVisionModel or",
    ),
    (
        "wan2.1-i2v-14b-480p",
        lambda f: edit(f / "transformer" / "config.json", image_dim=None),
        "number of image tokens should be 257, but the folder says 0",
    ),
    (
        "wan2.1-i2v-14b-480p",
        lambda f: edit(f / "transformer" / "config.json", pos_embed_seq_len=514),
        "number of image tokens should be 257, but the folder says 514",
    ),
    (
        "wan2.1-vace-1.3b",
        lambda f: edit(f / "transformer" / "config.json", vace_layers=[0]),
        "number of control blocks should be 2, but the folder says 1",
    ),
    (
        "wan2.1-flf2v-14b",
        lambda f: edit(f / "transformer" / "config.json", pos_embed_seq_len=None),
        "number of image tokens should be 514, but the folder says 257",
    ),
    (
        "wan2.2-i2v-a14b",
        lambda f: edit(f / "transformer_2" / "config.json", in_channels=16),
        "transformer_2's input channels should be 36, but the folder says 16",
    ),
]


@pytest.mark.parametrize(("name", "breakage", "said"), BREAKAGES)
def test_a_broken_folder_is_refused_in_a_sentence(
    folders: Callable[[Variant], Path],
    tmp_path: Path,
    name: str,
    breakage: Callable[[Path], object],
    said: str,
) -> None:
    folder = Path(shutil.copytree(folders(small(name)), tmp_path / "weights"))
    breakage(folder)
    with pytest.raises(WeightsError, match=said) as caught:
        load_checkpoint(small(name), folder)
    assert "\n" not in str(caught.value)
