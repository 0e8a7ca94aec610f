"""Pictures for CLIP: to the bits of transformers' processor."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessorPil

from models.conditioning.picture_processor import PictureProcessor


@pytest.mark.parametrize("changes", [{}, {"resample": 2, "image_std": [0.5, 0.25, 0.3], "size": 224}])
@pytest.mark.parametrize("shape", [(224, 224), (61, 333), (500, 301), (225, 224)])
def test_a_picture_has_the_bits_of_transformers(
    tmp_path: Path, shape: tuple[int, int], changes: dict[str, Any]
) -> None:
    CLIPImageProcessorPil().save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    library = CLIPImageProcessorPil.from_pretrained(tmp_path, local_files_only=True)
    expected = library(images=[picture], input_data_format="channels_last", return_tensors="pt").pixel_values
    found = PictureProcessor.from_folder(tmp_path)([picture])
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"do_center_crop": False}, "do_center_crop must be true"),
        ({"size": {"shortest_edge": 256}}, "size and crop_size must be the same"),
        ({"size": {"shortest_edge": "large"}}, "shortest_edge must be a number of pixels"),
    ],
)
def test_a_processor_of_another_kind_is_refused(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(changes))
    with pytest.raises(ValueError, match=sentence):
        PictureProcessor.from_folder(tmp_path)
