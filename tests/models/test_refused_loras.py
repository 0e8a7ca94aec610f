"""A LoRA that does not fit or is broken is refused in a sentence, and leaves the engine as it was."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.engine import FusedLora
from models.errors import InvalidRequest, LoraRemoved, WeightsError
from models.pipeline.wan_engine import WanEngine
from models.video_spec import LoraUse

from .checkpoints import save_checkpoint, small
from .test_lora import ONE, REQUEST_1, latents, load, with_loras


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lora")
    save_checkpoint(small(ONE), root / ONE)
    return root


@pytest.fixture(scope="module")
def base(root: Path) -> Tensor:
    """The latents of a model that never had a LoRA."""
    return latents(load(root, ONE), REQUEST_1)


Q = "blocks.0.attn1.to_q"


def bad_folder(folder: Path) -> Path:
    """Write LoRAs that do not fit or are broken, each named by its fault."""
    pairs: Mapping[str, Mapping[str, Tensor]] = {
        "wrong_shape": {f"{Q}.lora_A.weight": torch.ones(2, 32), f"{Q}.lora_B.weight": torch.ones(64, 2)},
        "wrong_bias": {f"{Q}.diff_b": torch.ones(64)},
        "wrong_layer": {"blocks.9.attn1.to_q.diff": torch.ones(48, 48)},
        "image_model": {"blocks.0.cross_attn.k_img.diff": torch.ones(48, 48)},
        "text_encoder": {"text_encoder.layers.0.lora_A.weight": torch.ones(2, 2)},
        "unknown_key": {"some.thing": torch.ones(2, 2)},
        "for_high_noise": {f"{Q}.diff": torch.ones(48, 48)},
        "twice": {f"{Q}.diff": torch.ones(48, 48)},
        "twice/one": {f"{Q}.diff": torch.ones(48, 48)},
        "fine": {f"{Q}.diff": torch.ones(48, 48)},
        "well": {f"{Q}.diff": torch.ones(48, 48)},
    }
    for name, tensors in pairs.items():
        (folder / name).parent.mkdir(exist_ok=True)
        save_file(dict(tensors), folder / f"{name}.safetensors")
    (folder / "broken.safetensors").write_bytes(b"\x80\x02}q")
    return folder


@pytest.fixture(scope="module")
def picky(root: Path, tmp_path_factory: pytest.TempPathFactory) -> WanEngine:
    return load(root, ONE, lora_folder=bad_folder(tmp_path_factory.mktemp("bad")))


BAD: list[tuple[LoraUse, str]] = [
    (LoraUse("nothing"), r"'nothing' does not exist; there are broken, fine, for, "),
    (LoraUse("../bad/fine"), "does not exist"),
    (LoraUse("fine.safetensors"), "does not exist"),
    (LoraUse("twice/one"), "does not exist"),
    (LoraUse("wrong_shape"), rf"{Q}.weight of 64x32; that of this model is 48x48"),
    (LoraUse("wrong_bias"), rf"{Q}.bias of 64; that of this model is 48"),
    (LoraUse("wrong_layer"), r"blocks.9.attn1.to_q.weight, which this model does not have"),
    (LoraUse("image_model"), r"blocks.0.attn2.add_k_proj.weight, which this model does not have"),
    (LoraUse("text_encoder"), "changes a text encoder"),
    (LoraUse("unknown_key"), "'some.thing', which is of no convention"),
    (LoraUse("for"), "is for the high_noise expert"),
    (LoraUse("twice"), "is the name of several files"),
    (LoraUse("broken"), "'broken' is not a whole safetensors file"),
    (LoraUse("fine", float("nan")), "must have a strength of -10 … 10, not nan"),
    (LoraUse("fine", float("inf")), "must have a strength"),
    (LoraUse("fine", -10.5), "must have a strength"),
]


@pytest.mark.parametrize(("use", "said"), BAD)
def test_a_lora_that_cannot_be_used_is_refused_before_the_run(
    picky: WanEngine, use: LoraUse, said: str
) -> None:
    for uses in ((use,), (LoraUse("well"), use)):
        with pytest.raises(InvalidRequest, match=said) as caught:
            picky.prepare(with_loras(REQUEST_1, *uses))
        assert caught.value.field.startswith(f"loras[{len(uses) - 1}].")
        assert "\n" not in str(caught.value)
        assert "/" not in str(caught.value).replace(repr(use.name), "")


def test_a_refused_lora_leaves_the_engine_as_it_was(picky: WanEngine, base: Tensor) -> None:
    run = picky.prepare(REQUEST_1)
    for use, _ in BAD:
        with pytest.raises(InvalidRequest):
            picky.prepare(with_loras(REQUEST_1, "well", use))
    while run.step < run.total_steps:
        picky.denoise_step(run)
    assert torch.equal(run.latents, base)


def test_an_engine_without_loras_says_so(root: Path, tmp_path: Path) -> None:
    for engine in (load(root, ONE), load(root, ONE, lora_folder=tmp_path)):
        with pytest.raises(LoraRemoved, match="does not exist; there is none"):
            latents(engine, REQUEST_1, "a")


def test_only_twenty_names_are_told(root: Path, tmp_path: Path) -> None:
    for index in range(25):
        (tmp_path / f"style{index:02}.safetensors").touch()
    with pytest.raises(InvalidRequest, match="style18, style19 and 5 more"):
        latents(load(root, ONE, lora_folder=tmp_path), REQUEST_1, "other")


def test_a_lora_that_cannot_be_fused_stops_the_start_and_is_named(root: Path, tmp_path: Path) -> None:
    folder = bad_folder(tmp_path)
    faults = [
        (FusedLora(folder / "missing.safetensors"), "is missing"),
        (FusedLora(folder / "broken.safetensors"), "is not a safetensors file"),
        (FusedLora(folder / "wrong_shape.safetensors"), "of 64x32; that of this model is 48x48"),
        (FusedLora(folder / "fine.safetensors", 11.0), "must have a strength"),
        (FusedLora(folder / "fine.safetensors", 1.0, "low_noise"), "is for the low_noise expert"),
    ]
    for fused, said in faults:
        with pytest.raises(WeightsError, match=said) as caught:
            load(root, ONE, fused_loras=(fused,))
        assert str(fused.file) in str(caught.value)
    with pytest.raises(WeightsError, match="no folder of LoRAs"):
        load(root, ONE, lora_folder=folder / "nowhere")
