"""A single file that is no such transformer, or is broken, is refused in a sentence that says why."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.engine import EngineSettings
from models.errors import WeightsError
from models.loading import load_engine
from models.variants import Variant

from .checkpoints import base_folders, small
from .test_single_file import (
    FILES,
    T2V,
    Tensors,
    latents,
    scaled_by_rows,
    split,
    tensors_of,
    wan_names,
    without_transformers,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a variant, with all its weights."""
    folders = base_folders(tmp_path_factory.mktemp("whole"))
    return lambda name: folders(small(name))


@pytest.fixture
def bare(whole: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """The same folder without the weights of its transformers."""
    return lambda name: without_transformers(whole(name), tmp_path / "bare")


def refused(variant: Variant, folder: Path, **settings: Any) -> str:
    with pytest.raises(WeightsError) as caught:
        load_engine(EngineSettings(variant, folder, **settings))
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


QUERY = "blocks.0.self_attn.q.weight"


def changed(tensors: Tensors, **changes: Tensor | None) -> Tensors:
    """Replace some tensors by name (``__`` for a dot); None removes one."""
    named = {name.replace("__", "."): tensor for name, tensor in changes.items()}
    return {name: tensor for name, tensor in (tensors | named).items() if tensor is not None}


FAULTS: list[tuple[Callable[[Tensors], Tensors], str]] = [
    (lambda t: changed(t, head__head__bias=None), r"lacks 1 tensors of .*1\.3b, such as proj_out\.bias\."),
    (
        lambda t: changed(t, voice__conv=torch.zeros(1), text__wte=torch.zeros(1)),
        r"has 2 tensors that are none of .*1\.3b, such as text\.wte, voice\.conv\.",
    ),
    (
        lambda t: changed(t, motion_encoder__enc__net_app__convs__0__1__bias=torch.zeros(1, 4, 1, 1)),
        r"has 1 tensors that are none of .*, such as motion_encoder\.",
    ),
    (
        lambda t: changed(t, head__head__bias=torch.zeros(3)),
        r"has 1 tensors in another shape than .*, such as head\.head\.bias\.",
    ),
    (lambda t: changed(t, patch_embedding__weight=None), "is not a Wan transformer: it holds no patch_emb"),
    (
        lambda t: changed(t, patch_embedding__weight=torch.zeros(48)),
        "input channels should be 16, but it has 0",
    ),
    (
        lambda t: {f"diffusion_model.{QUERY.removesuffix('.weight')}.lora_A.weight": torch.zeros(4, 48)},
        r"is a LoRA: it holds no patch_embedding\.weight\.",
    ),
    (
        lambda t: {n: x for n, x in t.items() if not n.startswith("blocks.1.")},
        "is not .*: its number of layers should be 2, but it has 1",
    ),
    (
        lambda t: changed(t, **{QUERY.replace(".", "__"): t[QUERY].to(torch.int8)}),
        rf"holds {re.escape(QUERY)} as I8; taken are F64, F32, F16, BF16, F8_E4M3, F8_E5M2\.",
    ),
    (
        lambda t: changed(scaled_by_rows(t), **{f"{QUERY}_scale".replace(".", "__"): None}),
        rf"lacks the scale of {re.escape(QUERY)}\.",
    ),
    (
        lambda t: changed(scaled_by_rows(t), **{f"{QUERY}_scale".replace(".", "__"): torch.ones(48, 2)}),
        rf"scales {re.escape(QUERY)} by F32 of shape \[48, 2\]; taken is one number .* 48 rows\.",
    ),
    (
        lambda t: changed(
            scaled_by_rows(t), **{f"{QUERY}_scale".replace(".", "__"): torch.ones(48, dtype=torch.uint8)}
        ),
        "by U8 of shape",
    ),
]


@pytest.mark.parametrize(("fault", "sentence"), FAULTS)
def test_a_file_of_another_transformer_is_refused(
    whole: Callable[[str], Path], tmp_path: Path, fault: Callable[[Tensors], Tensors], sentence: str
) -> None:
    file = tmp_path / "file.safetensors"
    save_file(fault(wan_names(tensors_of(whole(T2V)))), file)
    message = refused(small(T2V), whole(T2V), transformer=file)
    assert message.startswith(str(file)) and re.search(sentence, message), message


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ("wan2.1-i2v-14b-480p", "its input channels should be 16, but it has 36"),
        ("wan2.1-vace-1.3b", "its number of layers should be 2, but it has 4"),
        ("wan2.2-ti2v-5b", "its input channels should be 16, but it has 48"),
    ],
)
def test_a_file_of_another_variant_is_refused(
    whole: Callable[[str], Path], tmp_path: Path, other: str, sentence: str
) -> None:
    save_file(wan_names(tensors_of(whole(other))), tmp_path / "file.safetensors")
    assert f"is not {T2V}: {sentence}." in refused(
        small(T2V), whole(T2V), transformer=tmp_path / "file.safetensors"
    )


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


BREAKAGES: list[tuple[Callable[[Path], object], str]] = [
    (Path.unlink, "is missing"),
    (cut, "is cut short"),
    (lambda f: f.write_bytes(b"GGUF\x03\0\0\0" + b"\0" * 100), "is not a safetensors file but GGUF"),
    (
        lambda f: f.write_bytes(b"PK\x03\x04\0\0\x08\x08" + b"\0" * 100),
        "is not a safetensors file but a pickle",
    ),
    (lambda f: f.write_bytes(b"\x80\x02}q\0" + b"\xff" * 100), "is not a safetensors file but a pickle"),
    (lambda f: f.write_bytes(b"\x08\0\0\0\0\0\0\0nonsense"), "is not a safetensors file"),
]


@pytest.mark.parametrize(("breakage", "sentence"), BREAKAGES)
@pytest.mark.parametrize("sharded", [False, True])
def test_a_broken_file_is_refused(
    whole: Callable[[str], Path],
    tmp_path: Path,
    breakage: Callable[[Path], object],
    sentence: str,
    sharded: bool,
) -> None:
    given = split(tensors_of(whole(T2V)), tmp_path / "shards")
    broken = given.parent / "two.safetensors"
    breakage(broken)
    message = refused(small(T2V), whole(T2V), transformer=given if sharded else broken)
    assert f"{broken} {sentence}" in message


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": 3}'])
def test_an_index_that_is_none_is_refused(whole: Callable[[str], Path], tmp_path: Path, content: str) -> None:
    index = tmp_path / "file.safetensors.index.json"
    index.write_text(content)
    assert "is not an index of safetensors files" in refused(small(T2V), whole(T2V), transformer=index)


def test_a_folder_of_several_forms_is_not_guessed_from(whole: Callable[[str], Path], tmp_path: Path) -> None:
    for name in ("bf16", "fp8"):
        save_file(tensors_of(whole(T2V)), tmp_path / f"{name}.safetensors")
    assert "in two files; name the one to take" in refused(small(T2V), whole(T2V), transformer=tmp_path)


def test_an_empty_folder_is_refused(whole: Callable[[str], Path], tmp_path: Path) -> None:
    assert "holds no safetensors file" in refused(small(T2V), whole(T2V), transformer=tmp_path)


def test_one_transformer_has_no_second_file(whole: Callable[[str], Path], tmp_path: Path) -> None:
    assert "transformer_2 has no place in" in refused(small(T2V), whole(T2V), transformer_2=tmp_path)


def test_a_quantised_folder_is_not_read_without_its_scales(
    whole: Callable[[str], Path], bare: Callable[[str], Path]
) -> None:
    folder = bare(T2V)
    save_file(scaled_by_rows(tensors_of(whole(T2V))), folder / "transformer" / FILES[0])
    assert "as F8_E4M3; taken here are F64, F32, F16, BF16" in refused(small(T2V), folder)
    assert latents(T2V, folder, transformer=folder / "transformer").isfinite().all()


def test_without_its_file_a_bare_folder_is_refused(bare: Callable[[str], Path]) -> None:
    assert "holds no safetensors file" in refused(small(T2V), bare(T2V))
