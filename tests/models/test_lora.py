"""A run with a LoRA is that of a model whose weights have it added, and leaves nothing of it behind."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models import loading
from models.engine import EngineSettings, FusedLora, GenerationRequest
from models.errors import InvalidRequest, ModelError
from models.loading import load_engine
from models.lora.beside import AdaptedLinear
from models.parallel.plan import ParallelPlan
from models.parallel.rank_launcher import LaunchedRank, RankLauncher
from models.pipeline.wan_engine import WanEngine
from models.transformer.projections import Projection
from models.video_spec import LoraUse

from .checkpoints import save_checkpoint, small
from .conftest import REQUEST
from .lora_files import CONVENTIONS, DIFFUSERS, add_products, random_products, save_products

TOLERANCE = 1e-5
REQUEST_1 = replace(REQUEST, steps=2, num_frames=5)
REQUEST_2 = replace(REQUEST_1, steps=4, guidance_scale_2=3.0)
"""A request in which both experts have steps."""
ONE, TWO = "wan2.1-t2v-1.3b", "wan2.2-t2v-a14b"

Products = dict[str, tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lora")
    for name in (ONE, TWO):
        save_checkpoint(small(name), root / name)
    return root


def load(root: Path, name: str, **settings: Any) -> WanEngine:
    return load_engine(EngineSettings(small(name), root / name.removesuffix("-distill"), **settings))


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load engines as on a machine without memory for the originals of weights."""
    monkeypatch.setattr(loading, "holds_originals", lambda *_: False)


def transformers(engine: WanEngine) -> list[Any]:
    return [denoiser.transformer for denoiser in engine.parts.denoisers]


def with_loras(request: GenerationRequest, *uses: LoraUse | str) -> GenerationRequest:
    return replace(request, loras=tuple(LoraUse(use) if isinstance(use, str) else use for use in uses))


def latents(engine: WanEngine, request: GenerationRequest, *uses: LoraUse | str) -> Tensor:
    run = engine.prepare(with_loras(request, *uses))
    while run.step < run.total_steps:
        engine.denoise_step(run)
    return run.latents


def assert_same(found: Tensor, expected: Tensor, base: Tensor) -> None:
    """Assert that two videos agree within the tolerance, and differ from the one without the LoRA."""
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)
    assert (found - base).abs().max() > 1000 * TOLERANCE


@pytest.fixture(scope="module")
def products(root: Path) -> dict[str, Products]:
    """Random LoRAs by name, written to ``root / "loras"``."""
    (model,) = transformers(load(root, ONE))
    made = {"a": random_products(model, seed=1), "b": random_products(model, seed=2)}
    for name, of in made.items():
        save_products(root / "loras" / f"{name}.safetensors", "diffusers", of)
    save_products(root / "loras" / "pair_high_noise_v2.safetensors", "comfyui", made["a"])
    save_products(root / "loras" / "pair_low_noise_v2.safetensors", "kohya", made["b"])
    save_products(root / "loras" / "folder" / "high_noise_model.safetensors", "original", made["b"])
    save_products(root / "loras" / "alone-HighNoise.safetensors", "original", made["a"])
    return made


@pytest.fixture(scope="module")
def one(root: Path, products: dict[str, Products]) -> WanEngine:
    return load(root, ONE, lora_folder=root / "loras")


@pytest.fixture(scope="module")
def base(root: Path) -> Tensor:
    """The latents of a model that never had a LoRA."""
    return latents(load(root, ONE), REQUEST_1)


@pytest.fixture(scope="module")
def with_added(root: Path, products: dict[str, Products]) -> Callable[..., Tensor]:
    """Return the latents of a model whose weights have LoRAs added, each with its strength."""

    def made(**factors: float) -> Tensor:
        engine = load(root, ONE)
        for name, factor in factors.items():
            add_products(transformers(engine)[0], products[name], factor)
        return latents(engine, REQUEST_1)

    return made


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_lora_of_any_convention_is_as_if_added_to_the_weights(
    root: Path, tmp_path: Path, base: Tensor, convention: str
) -> None:
    engine, added = load(root, ONE, lora_folder=tmp_path), load(root, ONE)
    products = random_products(*transformers(added))
    factor = save_products(tmp_path / "style.safetensors", convention, products)
    add_products(transformers(added)[0], products, factor)
    assert_same(latents(engine, REQUEST_1, "style"), latents(added, REQUEST_1), base)


def test_strength_scales_a_lora_and_several_add_up(
    one: WanEngine, base: Tensor, with_added: Callable[..., Tensor]
) -> None:
    assert_same(latents(one, REQUEST_1, LoraUse("a", 0.5)), with_added(a=0.5), base)
    assert_same(latents(one, REQUEST_1, LoraUse("a", -0.5)), with_added(a=-0.5), base)
    both = latents(one, REQUEST_1, LoraUse("a", 0.5), LoraUse("b", 0.7))
    assert_same(both, with_added(a=0.5, b=0.7), base)
    assert torch.equal(latents(one, REQUEST_1, LoraUse("a", 0.0)), base)
    assert torch.equal(latents(one, REQUEST_1, LoraUse("b", 0.0), "a"), latents(one, REQUEST_1, "a"))


@pytest.mark.slow
def test_a_lora_leaves_nothing_behind(root: Path, products: dict[str, Products], base: Tensor) -> None:
    def fresh(*uses: LoraUse | str) -> Tensor:
        return latents(load(root, ONE, lora_folder=root / "loras"), REQUEST_1, *uses)

    engine = load(root, ONE, lora_folder=root / "loras")
    assert torch.equal(latents(engine, REQUEST_1), base)
    for uses in ([], ["a"], ["b"], [LoraUse("b", 0.3), "a"], []):
        assert torch.equal(latents(engine, REQUEST_1, *uses), fresh(*uses))
    assert torch.equal(latents(engine, REQUEST_1), base)


def test_runs_in_turn_have_each_its_own_loras(one: WanEngine) -> None:
    uses: list[list[LoraUse | str]] = [["a"], [], [LoraUse("b", 0.5)], ["a"]]
    alone = [latents(one, REQUEST_1, *use) for use in uses]
    runs = [one.prepare(with_loras(REQUEST_1, *use)) for use in uses]
    for _ in range(REQUEST_1.steps):
        for run in runs:
            one.denoise_step(run)
    for run, expected in zip(runs, alone, strict=True):
        assert torch.equal(run.latents, expected)


@pytest.mark.usefixtures("little_memory")
def test_where_originals_have_no_memory_loras_stand_beside_the_layers(
    root: Path, products: dict[str, Products], base: Tensor, with_added: Callable[..., Tensor]
) -> None:
    engine = load(root, ONE, lora_folder=root / "loras")
    (model,) = transformers(engine)
    plain = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Projection)]
    latents(engine, REQUEST_1, LoraUse("a", 0.0))
    assert not any(isinstance(module, AdaptedLinear) for module in model.modules())
    for use in ("a", "b"):
        assert_same(latents(engine, REQUEST_1, use), with_added(**{use: 1.0}), base)
        adapted = {name for name, module in model.named_modules() if isinstance(module, AdaptedLinear)}
        assert adapted == set(DIFFUSERS) < set(plain)
    assert torch.equal(latents(engine, REQUEST_1), base)
    assert not any(isinstance(module, AdaptedLinear) for module in model.modules())


@pytest.mark.usefixtures("little_memory")
def test_a_layer_may_have_been_replaced_by_one_of_another_class(
    root: Path, products: dict[str, Products]
) -> None:
    engine = load(root, ONE, lora_folder=root / "loras")
    expected = latents(engine, REQUEST_1, "a")
    latents(engine, REQUEST_1)
    (model,) = transformers(engine)
    for module in DIFFUSERS[:6]:
        model.set_submodule(module, nn.Sequential(model.get_submodule(module)))
    assert torch.equal(latents(engine, REQUEST_1, "a"), expected)


DIFFERENCES = {
    "diffusion_model.blocks.0.self_attn.q.diff": "blocks.0.attn1.to_q.weight",
    "diffusion_model.blocks.0.self_attn.q.diff_b": "blocks.0.attn1.to_q.bias",
    "diffusion_model.blocks.0.self_attn.norm_q.diff": "blocks.0.attn1.norm_q.weight",
    "diffusion_model.blocks.1.cross_attn.norm_k.diff": "blocks.1.attn2.norm_k.weight",
    "diffusion_model.blocks.1.norm3.diff": "blocks.1.norm2.weight",
    "diffusion_model.blocks.1.norm3.diff_b": "blocks.1.norm2.bias",
    "diffusion_model.blocks.1.ffn.2.diff_b": "blocks.1.ffn.net.2.bias",
    "diffusion_model.blocks.1.diff_m": "blocks.1.scale_shift_table",
    "diffusion_model.head.modulation.diff": "scale_shift_table",
    "diffusion_model.head.head.diff": "proj_out.weight",
    "diffusion_model.patch_embedding.diff": "patch_embedding.weight",
    "diffusion_model.patch_embedding.diff_b": "patch_embedding.bias",
}


@pytest.mark.slow
def test_whole_differences_are_added_and_taken_off_again(root: Path, tmp_path: Path, base: Tensor) -> None:
    engine, added = load(root, ONE, lora_folder=tmp_path), load(root, ONE)
    (model,) = transformers(added)
    tensors = {key: 0.1 * torch.randn_like(model.get_parameter(name)) for key, name in DIFFERENCES.items()}
    save_file(tensors, tmp_path / "whole.safetensors")
    without = latents(added, REQUEST_1)
    for key, name in DIFFERENCES.items():
        with torch.no_grad():
            model.get_parameter(name).add_(tensors[key], alpha=0.5)
        one_less = without
        without = latents(added, REQUEST_1)
        assert (without - one_less).abs().max() > 10 * TOLERANCE, f"{name} shows nowhere"
    assert_same(latents(engine, REQUEST_1, LoraUse("whole", 0.5)), without, base)
    shutil.copy(tmp_path / "whole.safetensors", tmp_path / "same.safetensors")
    halves = LoraUse("whole", 0.25), LoraUse("same", 0.25)
    assert_same(latents(engine, REQUEST_1, *halves), without, base)
    assert torch.equal(latents(engine, REQUEST_1), base)


def test_a_product_for_a_convolution_is_added_too(root: Path, tmp_path: Path, base: Tensor) -> None:
    engine, added = load(root, ONE, lora_folder=tmp_path), load(root, ONE)
    weight = transformers(added)[0].patch_embedding.weight
    down, up = torch.randn(2, *weight.shape[1:]), torch.randn(weight.shape[0], 2, 1, 1, 1)
    tensors = {"patch_embedding.lora_down.weight": down, "patch_embedding.lora_up.weight": up}
    save_file(tensors, tmp_path / "patches.safetensors")
    with torch.no_grad():
        weight.add_(torch.einsum("or,ricde->oicde", up.flatten(1), down), alpha=0.1)
    assert_same(latents(engine, REQUEST_1, LoraUse("patches", 0.1)), latents(added, REQUEST_1), base)
    assert torch.equal(latents(engine, REQUEST_1), base)


@pytest.mark.parametrize(
    ("lora", "high", "low"),
    [
        (LoraUse("a", 0.5), ("a", 1.0), ("a", 1.0)),
        (LoraUse("a", 0.5, -0.25), ("a", 1.0), ("a", -0.5)),
        (LoraUse("pair_v2", 0.0, 0.5), None, ("b", 2.0)),
        (LoraUse("pair_v2", 0.5), ("a", 2.0), ("b", 2.0)),
        (LoraUse("folder", 0.5), ("b", 2.0), None),
        (LoraUse("alone", 0.5), ("a", 2.0), None),
    ],
)
def test_each_expert_has_the_lora_that_is_for_it(
    root: Path, products: dict[str, Products], lora: LoraUse, high: Any, low: Any
) -> None:
    engine, added = load(root, TWO, lora_folder=root / "loras"), load(root, TWO)
    base = latents(added, REQUEST_2)
    for model, share in zip(transformers(added), (high, low), strict=True):
        if share is not None:
            add_products(model, products[share[0]], 0.5 * share[1])
    found = latents(engine, REQUEST_2, lora)
    assert_same(found, latents(added, REQUEST_2), base)
    assert torch.equal(latents(engine, REQUEST_2), base)


def test_a_distilled_model_is_its_base_with_a_fused_lora(root: Path, products: dict[str, Products]) -> None:
    distilled = f"{ONE}-distill"
    file = root / "loras" / "a.safetensors"
    fused = load(root, distilled, fused_loras=(FusedLora(file, 0.8),))
    added = load(root, distilled)
    base = latents(added, REQUEST_1)
    add_products(transformers(added)[0], products["a"], 0.8)
    assert_same(latents(fused, REQUEST_1), latents(added, REQUEST_1), base)
    on_request = load(root, distilled, lora_folder=root / "loras")
    assert_same(latents(on_request, REQUEST_1, LoraUse("a", 0.8)), latents(fused, REQUEST_1), base)
    assert not any(isinstance(module, AdaptedLinear) for module in transformers(fused)[0].modules())


def test_a_distilled_model_of_two_experts_has_one_fused_lora_for_each(
    root: Path, products: dict[str, Products]
) -> None:
    distilled, folder = f"{TWO}-distill", root / "loras"
    fused = (
        FusedLora(folder / "pair_high_noise_v2.safetensors", 0.5, "high_noise"),
        FusedLora(folder / "pair_low_noise_v2.safetensors", 0.4, "low_noise"),
    )
    engine = load(root, distilled, fused_loras=fused, lora_folder=folder)
    added = load(root, distilled)
    base = latents(added, REQUEST_1)
    for model, name, factor in zip(transformers(added), "ab", (1.0, 0.8), strict=True):
        add_products(model, products[name], factor)
    fused_alone = latents(added, REQUEST_1)
    assert_same(latents(engine, REQUEST_1), fused_alone, base)
    for model in transformers(added):
        add_products(model, products["b"], 0.3)
    assert_same(latents(engine, REQUEST_1, LoraUse("b", 0.3)), latents(added, REQUEST_1), fused_alone)


def test_a_fused_lora_is_rounded_once(root: Path, products: dict[str, Products]) -> None:
    fused = load(root, ONE, dtype="bfloat16", fused_loras=(FusedLora(root / "loras" / "a.safetensors"),))
    plain = load(root, ONE, dtype="bfloat16")
    for module, (down, up) in products["a"].items():
        before = transformers(plain)[0].get_parameter(f"{module}.weight")
        after = transformers(fused)[0].get_parameter(f"{module}.weight")
        assert after.dtype == before.dtype
        assert torch.equal(after, torch.addmm(before.float(), up, down).to(before.dtype))


def test_lower_precision_makes_nearly_the_same_video(root: Path, one: WanEngine) -> None:
    half = latents(load(root, ONE, dtype="bfloat16", lora_folder=root / "loras"), REQUEST_1, "a")
    full = latents(one, REQUEST_1, "a")
    assert (full - half).norm() < 0.05 * full.norm()


def sizes(engine: WanEngine) -> dict[str, int]:
    """Return the LoRAs in the cache, and their bytes."""
    return {file.stem: lora.size_bytes for file, lora in engine.parts.loras.cached.items()}


def test_the_cache_of_loras_is_bounded(root: Path, one: WanEngine) -> None:
    expected = {name: latents(one, REQUEST_1, name) for name in "ab"}
    size = sizes(one)["a"]
    engine = load(root, ONE, lora_folder=root / "loras", lora_cache_bytes=size * 3 // 2)
    for name in "abba":
        assert torch.equal(latents(engine, REQUEST_1, name), expected[name])
        assert sizes(engine) == {name: size}
    assert engine.evictions["lora"] == 2
    with pytest.raises(InvalidRequest, match="may have"):
        latents(engine, REQUEST_1, "a", "b")


def test_the_least_lately_used_lora_leaves_first(root: Path, tmp_path: Path, one: WanEngine) -> None:
    latents(one, REQUEST_1, "a")
    for name in "abc":
        shutil.copy(root / "loras" / "a.safetensors", tmp_path / f"{name}.safetensors")
    engine = load(root, ONE, lora_folder=tmp_path, lora_cache_bytes=2 * sizes(one)["a"])
    for name in "abac":
        engine.prepare(with_loras(REQUEST_1, name))
    assert set(sizes(engine)) == {"a", "c"}


def test_a_lora_is_read_once_and_again_when_its_file_changed(
    root: Path, tmp_path: Path, one: WanEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(root, ONE, lora_folder=tmp_path)
    shutil.copy(root / "loras" / "a.safetensors", tmp_path / "style.safetensors")
    for _ in range(2):
        assert torch.equal(latents(engine, REQUEST_1, "style"), latents(one, REQUEST_1, "a"))
    (kept,) = engine.parts.loras.cached.values()
    run = engine.prepare(with_loras(REQUEST_1, "style"))
    ((weighted,),) = run.loras
    assert weighted[0] is kept
    shutil.copy(root / "loras" / "pair_low_noise_v2.safetensors", tmp_path / "style.safetensors")
    assert torch.equal(latents(engine, REQUEST_1, "style"), latents(one, REQUEST_1, LoraUse("b", 2.0)))


def on_rank(rank: LaunchedRank, plan: ParallelPlan, root: Path, folders: list[Path]) -> None:
    """Run with a LoRA, then with one that the last rank alone does not have, then with the first again."""
    rank.join()
    mesh = rank.mesh(plan)
    settings = EngineSettings(small(ONE), root / ONE, lora_folder=folders[rank.number])
    engine = load_engine(settings, mesh)
    for name in "aba":
        try:
            rank.send(latents(engine, REQUEST_1, name).numpy())
        except ModelError as error:
            rank.send(type(error).__name__)


@pytest.mark.slow
def test_the_ranks_of_a_group_have_a_lora_together_or_refuse_it_together(
    root: Path, tmp_path: Path, one: WanEngine
) -> None:
    shutil.copy(root / "loras" / "a.safetensors", tmp_path)
    alone = latents(one, REQUEST_1, "a")
    folders = [root / "loras", tmp_path]
    said: dict[int, list[Any]] = {0: [], 1: []}
    with RankLauncher(on_rank, 2, ParallelPlan(ulysses=2), root, folders, timeout_s=60) as launcher:
        for number, content in launcher.messages():
            said[number].append(content)
    for (first, refused, again), error in zip(said.values(), ("ModelError", "LoraRemoved"), strict=True):
        torch.testing.assert_close(torch.from_numpy(first), alone, atol=1e-4, rtol=0)
        assert refused == error
        assert (again == first).all()
