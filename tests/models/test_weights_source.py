"""The ``weights`` setting: a folder or a model of the hub, told apart without guessing."""

from pathlib import Path

import pytest

from models.engine import EngineSettings
from models.variants import VARIANTS
from models.weights_source import HubModel, weights_source


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", HubModel("Wan-AI/Wan2.1-T2V-1.3B-Diffusers")),
        ("org/name@main", HubModel("org/name", "main")),
        ("org/name@0123abc", HubModel("org/name", "0123abc")),
        ("org/name@refs/pr/1", HubModel("org/name", "refs/pr/1")),
        ("/org/name", Path("/org/name")),
        ("./org/name", Path("org/name")),
        ("../name", Path("../name")),
        ("~/name", Path.home() / "name"),
        ("weights", Path("weights")),
        ("models/demo/weights", Path("models/demo/weights")),
        ("org/name@", Path("org/name@")),
        ("org/name@-x", Path("org/name@-x")),
        ("org/название", Path("org/название")),
    ],
)
def test_a_text_is_a_folder_or_a_hubs_model(tmp_path: Path, text: str, source: Path | HubModel) -> None:
    assert weights_source(text, tmp_path) == source


def test_a_folder_that_there_is_comes_before_the_hub(tmp_path: Path) -> None:
    assert weights_source("org/name", tmp_path) == HubModel("org/name")
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert weights_source("org/name", tmp_path) == Path("org/name")


@pytest.mark.parametrize("model", [HubModel("org/name"), HubModel("org/name", "v1")])
def test_a_hubs_model_is_written_as_it_is_read(tmp_path: Path, model: HubModel) -> None:
    assert weights_source(str(model), tmp_path) == model


def test_a_settings_folder_is_whole_unless_parts_are_replaced() -> None:
    settings = EngineSettings(VARIANTS["wan2.2-t2v-a14b"], Path("w"), transformer_2=Path("low"))
    assert settings.replaced == {"transformer_2": Path("low")}
    assert EngineSettings(VARIANTS["demo"], Path("w")).replaced == {}
