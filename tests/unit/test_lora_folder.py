"""The files of a LoRA folder as LoRAs: pairs in the spellings that people use, halves, repositories."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from models.errors import LoraFault
from models.lora.folder import LoraFolder


def folder(path: Path, names: Iterable[str], *, two_experts: bool = True) -> LoraFolder:
    for name in names:
        file = path / f"{name}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return LoraFolder(path, two_experts=two_experts)


def files(loras: LoraFolder, name: str, path: Path) -> dict[str, str]:
    found = loras.files(name)
    assert found is not None
    return {
        expert: str(file.relative_to(path)).removesuffix(".safetensors") for expert, file in found.items()
    }


PAIRS = [
    ("style_high_noise_v2", "style_low_noise_v2", "style_v2"),
    (
        "Wan2.2-Lightning_I2V-4steps-lora_HIGH_fp16",
        "Wan2.2-Lightning_I2V-4steps-lora_LOW_fp16",
        "Wan2.2-Lightning_I2V-4steps-lora_fp16",
    ),
    ("WAN2.2-HighNoise_Snapshot_v3", "WAN2.2-LowNoise_Snapshot_v3", "WAN2.2_Snapshot_v3"),
    ("Instagirlv2.0_hinoise", "Instagirlv2.0_lownoise", "Instagirlv2.0"),
    ("portrait_i2v_HN", "portrait_i2v_LN", "portrait_i2v"),
    ("W22_Posing_i2v_HN_v1", "W22_Posing_i2v_LN_v1", "W22_Posing_i2v_v1"),
    ("STYLE-22-H-e8", "STYLE-22-L-e8", "STYLE-22-e8"),
    ("style_h", "style_l", "style"),
    ("BounceHighWan2_2", "BounceLowWan2_2", "BounceWan2_2"),
    ("CassWan2.2HighNoise", "CassWan2.2LowNoise", "CassWan2.2"),
    ("AAG_MuscleH_high_noise", "AAG_MuscleL_low_noise", "AAG_Muscle"),
    ("Wan2.2 - I2V - King - HIGH 14B", "Wan2.2 - I2V - King - LOW 14B", "Wan2.2 - I2V - King 14B"),
    ("style-high", "style-LOW", "style"),
    ("style_highnoise_v1", "style-low-noise-v1", "style_v1"),
    ("style_noise_high", "style_noise_low", "style"),
    ("style.hi", "style.lo", "style"),
    ("水墨_高噪", "水墨_低噪", "水墨"),
    ("low_poly_HIGH", "low_poly_LOW", "low_poly"),
    ("high_noise_model", "low_noise_model", "model"),
    ("high", "low", "high_low"),
    ("style_high/pytorch_lora_weights", "style_low/pytorch_lora_weights", "style"),
    ("style/high_noise/adapter_model", "style/low_noise/adapter_model", "style"),
    ("style/high", "style/low", "style"),
    ("Seko-V1/high_noise_model", "Seko-V1/low_noise_model", "Seko-V1"),
    ("high/style_high", "low/style_low", "style"),
]


@pytest.mark.parametrize(("high", "low", "name"), PAIRS)
def test_two_files_that_differ_in_high_and_low_are_one_lora(
    tmp_path: Path, high: str, low: str, name: str
) -> None:
    loras = folder(tmp_path, [high, low, "other"])
    assert loras.names() == sorted([name, "other"])
    assert files(loras, name, tmp_path) == {"high_noise": high, "low_noise": low}
    assert files(loras, "other", tmp_path) == {"both": "other"}
    assert loras.remarks() == {}


@pytest.mark.parametrize(
    "name",
    [
        "flow",
        "glow_v1",
        "highlights",
        "yellow-style",
        "lowpoly",
        "highres",
        "xl",
        "Hollow",
        "wan-14B",
        "hello",
    ],
)
def test_what_only_looks_like_a_mark_is_none(tmp_path: Path, name: str) -> None:
    loras = folder(tmp_path, [name])
    assert files(loras, name, tmp_path) == {"both": name}
    assert loras.remarks() == {}


@pytest.mark.parametrize(
    ("file", "name", "expert"),
    [
        ("style_high_noise_v2", "style_v2", "high_noise"),
        ("style-LowNoise", "style", "low_noise"),
        ("style_HIGH_fp16", "style_HIGH_fp16", "high_noise"),
        ("style_LN", "style_LN", "low_noise"),
        ("style/high_noise_model", "style", "high_noise"),
    ],
)
def test_one_half_is_for_its_expert_alone_and_is_told(
    tmp_path: Path, file: str, name: str, expert: str
) -> None:
    loras = folder(tmp_path, [file])
    assert loras.names() == [name]
    assert files(loras, name, tmp_path) == {expert: file}
    assert f"for the {expert} expert alone" in loras.remarks()[name]


@pytest.mark.parametrize("file", ["style-H", "lo-fi", "style_high_low"])
def test_a_name_that_may_mean_an_expert_is_for_both_and_is_told(tmp_path: Path, file: str) -> None:
    loras = folder(tmp_path, [file])
    assert files(loras, file, tmp_path) == {"both": file}
    assert "both experts have it" in loras.remarks()[file]


def test_halves_of_different_epochs_are_one_lora_and_that_is_told(tmp_path: Path) -> None:
    high, low = "wan22-hips-13epoc-high-k3nk", "wan22-hips-23epoc-low-k3nk"
    loras = folder(tmp_path, [high, low])
    assert files(loras, "wan22-hips-13epoc-k3nk", tmp_path) == {"high_noise": high, "low_noise": low}
    assert "different epochs" in loras.remarks()["wan22-hips-13epoc-k3nk"]


def test_checkpoints_of_a_training_pair_by_their_steps(tmp_path: Path) -> None:
    names = [f"style_{noise}_noise-{steps:06}" for noise in ("high", "low") for steps in (100, 200)]
    loras = folder(tmp_path, names)
    assert loras.names() == ["style-000100", "style-000200"]
    assert loras.remarks() == {}


def test_halves_that_several_could_belong_to_stay_apart(tmp_path: Path) -> None:
    loras = folder(tmp_path, ["style_HIGH_e10", "style_HIGH_e20", "style_LOW_e15"])
    assert {name: list(files(loras, name, tmp_path)) for name in loras.names()} == {
        "style_HIGH_e10": ["high_noise"],
        "style_HIGH_e20": ["high_noise"],
        "style_LOW_e15": ["low_noise"],
    }
    assert len(loras.remarks()) == 3


def test_a_repository_put_in_whole_gives_each_of_its_loras(tmp_path: Path) -> None:
    one = [
        f"Distill-Loras/wan2.2_{task}_{noise}_noise_4step"
        for task in ("i2v", "t2v")
        for noise in ("high", "low")
    ]
    two = [f"Lightning/{task}-V1/{noise}_noise_model" for task in ("I2V", "T2V") for noise in ("high", "low")]
    loras = folder(tmp_path, [*one, *two, "Distill-Loras/.cache/part", "Distill-Loras/._wan2.2"])
    assert loras.names() == ["I2V-V1", "T2V-V1", "wan2.2_i2v_4step", "wan2.2_t2v_4step"]
    assert all(set(files(loras, name, tmp_path)) == {"high_noise", "low_noise"} for name in loras.names())


def test_a_name_that_several_loras_have_is_refused_and_told(tmp_path: Path) -> None:
    loras = folder(tmp_path, ["style", "style_HIGH", "style_LOW"])
    with pytest.raises(LoraFault, match="several files"):
        loras.files("style")
    assert "several files" in loras.remarks()["style"]


def test_in_a_model_with_one_expert_high_is_a_word_unless_it_says_noise(tmp_path: Path) -> None:
    loras = folder(tmp_path, ["detail_high", "detail_low", "style-H", "x_high_noise"], two_experts=False)
    assert loras.names() == ["detail_high", "detail_low", "style-H", "x"]
    assert files(loras, "detail_low", tmp_path) == {"both": "detail_low"}
    assert files(loras, "x", tmp_path) == {"high_noise": "x_high_noise"}
    assert loras.remarks() == {}
