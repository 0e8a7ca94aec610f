"""LoRAs of requests are merged into the weights, as fused ones are, and leave every bit as it was loaded."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from models import loading
from models.engine import FusedLora
from models.errors import InvalidRequest, ModelError, OutOfMemory, TuningError
from models.lora import cache as lora_cache
from models.lora import originals as lora_originals
from models.lora.adapters import Adapters
from models.lora.beside import AdaptedLinear
from models.lora.file import LowRank, read_lora
from models.lora.originals import Originals, Room
from models.parallel.plan import ParallelPlan
from models.pipeline.wan_engine import WanEngine
from models.speed import tuned_model as tuned
from models.speed.compiled import compiled_parts
from models.speed.fp8 import Fp8Linear, quantise
from models.transformer.block import blocks_in_order
from models.transformer.denoiser import Denoiser
from models.transformer.projections import join_projections
from models.video_spec import LoraUse
from models.weights.arrival import Arrival
from models.weights.carrier import Carrier
from testbed.fake_device.device import FakeDevice

from .checkpoints import save_checkpoint, small
from .checkpoints import transformer as small_transformer
from .conftest import remade
from .lora_files import random_products
from .test_lora import ONE, REQUEST_1, TOLERANCE, latents, load, transformers, with_loras

CPU = torch.device("cpu")
STRENGTH = 0.7

Bits = list[dict[str, Tensor]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and the random LoRAs ``a`` and ``b``."""
    root = tmp_path_factory.mktemp("merging")
    save_checkpoint(small(ONE), root / ONE)
    (model,) = transformers(load(root, ONE))
    (root / "loras").mkdir()
    for seed, name in enumerate("ab"):
        products = random_products(model, seed)
        products["blocks.1.attn1.to_v"] = products["blocks.0.attn1.to_q"]  # the last part of a joined weight
        tensors: dict[str, Tensor] = {}
        for module, (down, up) in products.items():
            tensors |= {f"{module}.lora_A.weight": down.clone(), f"{module}.lora_B.weight": up.clone()}
        save_file(tensors, root / "loras" / f"{name}.safetensors")
    return root


def merging(root: Path, **settings: Any) -> WanEngine:
    return load(root, ONE, lora_folder=root / "loras", **settings)


def fused(root: Path, **settings: Any) -> WanEngine:
    file = root / "loras" / "a.safetensors"
    return load(root, ONE, fused_loras=(FusedLora(file, STRENGTH),), **settings)


def bits(engine: WanEngine) -> Bits:
    """Return copies of all the weights, with those of 8 bits and their scales."""
    return [
        {name: value.clone() for name, value in model.state_dict().items()} for model in transformers(engine)
    ]


def same(one: Bits, other: Bits) -> bool:
    return all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merged_weights_are_those_of_a_fused_lora_to_the_bit(root: Path, dtype: str) -> None:
    engine, expected = merging(root, dtype=dtype), fused(root, dtype=dtype)
    loaded = bits(engine)
    run = latents(engine, REQUEST_1, LoraUse("a", STRENGTH))
    assert same(bits(engine), bits(expected)) and not same(bits(engine), loaded)
    assert torch.equal(run, latents(expected, REQUEST_1))
    assert not any(isinstance(module, AdaptedLinear) for module in transformers(engine)[0].modules())


def test_merged_beside_the_layers_and_fused_make_the_same_video(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use = LoraUse("a", STRENGTH)
    merged, expected = latents(merging(root), REQUEST_1, use), latents(fused(root), REQUEST_1)
    monkeypatch.setattr(loading, "holds_originals", lambda *_: False)
    beside = latents(merging(root), REQUEST_1, use)
    torch.testing.assert_close(beside, merged, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(beside, expected, atol=TOLERANCE, rtol=0)
    assert not torch.equal(beside, merged)


def finished(engine: WanEngine, request: Any) -> None:
    latents(engine, request)


def cancelled(engine: WanEngine, request: Any) -> None:
    engine.denoise_step(engine.prepare(request))


def refused(engine: WanEngine, request: Any) -> None:
    with pytest.raises(InvalidRequest):
        engine.prepare(replace(request, loras=(*request.loras, LoraUse("nothing"))))


def failed(engine: WanEngine, request: Any) -> None:
    run = engine.prepare(request)
    run.latents = run.latents[:, :3]
    with pytest.raises(ModelError):
        engine.denoise_step(run)


def interrupted(engine: WanEngine, request: Any) -> None:
    """Fail in the middle of merging, at a parameter that is not the first."""
    use, *_ = request.loras
    ((chosen,),) = engine.parts.loras.choose([use])
    products: Any = chosen[0].products
    name = list(products)[-1]
    kept = products[name]
    products[name] = LowRank(kept.down, kept.up[:-1], kept.scale)
    try:
        with pytest.raises(ModelError):
            engine.prepare(request)
    finally:
        products[name] = kept


@pytest.mark.parametrize("end", [finished, cancelled, refused, failed, interrupted])
def test_after_any_end_of_a_run_the_weights_are_those_that_were_loaded(
    root: Path, end: Callable[[WanEngine, Any], None]
) -> None:
    engine = merging(root)
    loaded, expected = bits(engine), latents(engine, REQUEST_1, "b")
    end(engine, with_loras(REQUEST_1, LoraUse("a", STRENGTH)))
    assert torch.equal(latents(engine, REQUEST_1, "b"), expected)
    end(engine, with_loras(REQUEST_1, LoraUse("a", STRENGTH)))
    engine.prepare(REQUEST_1)
    assert same(bits(engine), loaded)


def test_what_finds_no_room_for_originals_is_refused_and_put_right_by_the_next_run(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = merging(root)
    loaded = bits(engine)
    with monkeypatch.context() as full:
        full.setattr(lora_cache, "free_bytes", lambda _: 10_000)  # enough for the first of them
        loras = engine.parts.loras.choose([LoraUse("a")])
        with pytest.raises(OutOfMemory, match="no memory left for the weights that LoRAs change"):
            engine.parts.loras.put_on(loras, 0)
    assert not same(bits(engine), loaded)
    engine.prepare(REQUEST_1)
    assert same(bits(engine), loaded)


def test_the_lora_of_the_run_before_is_found_merged(root: Path) -> None:
    engine = merging(root)
    use = LoraUse("a", STRENGTH)
    latents(engine, REQUEST_1, use)
    marked = transformers(engine)[0].proj_out.weight
    with torch.no_grad():
        marked[0, 0] = 7.0  # would be lost if the weight were written again
    latents(engine, REQUEST_1, use)
    assert marked[0, 0] == 7.0
    latents(engine, REQUEST_1, LoraUse("a", STRENGTH / 2))
    assert marked[0, 0] != 7.0


@pytest.mark.slow
def test_compiled_blocks_take_merged_weights_without_compiling_again(root: Path) -> None:
    engine, counter = merging(root), CompileCounter()
    parts = compiled_parts(ParallelPlan(), counter)
    compiled = remade(engine, denoiser=Denoiser(transformers(engine)[0], block_parts=parts))
    latents(compiled, REQUEST_1)
    forms = counter.frame_count
    assert forms > 0
    made = latents(compiled, REQUEST_1, LoraUse("a", STRENGTH))
    torch.testing.assert_close(made, latents(fused(root), REQUEST_1), atol=TOLERANCE, rtol=0)
    assert counter.frame_count == forms


def test_8_bit_weights_are_quantised_from_their_originals(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuned, "check_fp8", lambda *_: None)  # which would ask for a CUDA device
    settings: dict[str, Any] = {"dtype": "bfloat16", "options": {"fp8": True}}
    engine = merging(root, **settings)
    assert isinstance(transformers(engine)[0].blocks[0].ffn.net[2], Fp8Linear)
    loaded = bits(engine)
    latents(engine, REQUEST_1, "b")
    latents(engine, REQUEST_1, LoraUse("a", STRENGTH))
    assert same(bits(engine), bits(fused(root, **settings))) and not same(bits(engine), loaded)
    engine.prepare(REQUEST_1)
    assert same(bits(engine), loaded)


@pytest.mark.parametrize("how", ["model", "group"])
@pytest.mark.parametrize("merges", [True, False])
def test_offloaded_weights_are_merged_where_they_wait_or_left_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch, how: str, merges: bool
) -> None:
    monkeypatch.setattr(tuned, "check_offload", lambda *_, **__: None)  # which would ask for a CUDA device
    if not merges:
        monkeypatch.setattr(loading, "holds_originals", lambda *_: False)
    engine = merging(root, options={"offload": how})
    loaded, places = bits(engine), [value.data_ptr() for value in transformers(engine)[0].parameters()]
    expected = latents(fused(root), REQUEST_1)
    for _ in range(2):  # the second time it is found merged
        run = engine.prepare(with_loras(REQUEST_1, LoraUse("a", STRENGTH)))
        for _ in range(REQUEST_1.steps):
            engine.denoise_step(run)
        torch.testing.assert_close(run.latents, expected, atol=TOLERANCE, rtol=0)
        list(engine.decode(run))  # by which the VAE sends the transformer away
    engine.prepare(REQUEST_1)
    list(engine.decode(run))
    assert [value.data_ptr() for value in transformers(engine)[0].parameters()] == places
    assert same(bits(engine), loaded)


def test_compiled_blocks_take_no_loras_beside_their_layers(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "holds_originals", lambda *_: False)
    with pytest.raises(TuningError, match="compile and a LoRA folder need memory for a second copy"):
        merging(root, options={"compile": True})


@pytest.fixture
def device() -> Iterator[torch.device]:
    """A CUDA device whose tensors have shapes alone."""
    with FakeDevice() as fake:
        yield fake.device


def test_originals_are_on_the_device_while_there_is_room(device: torch.device) -> None:
    originals, weight = Originals(device), torch.zeros(8, 8, device=device)
    room = Room(3 * weight.nbytes)
    kept = [originals.keep(name, weight, room).device.type for name in "abcd"]
    assert kept == ["cuda", "cuda", "cuda", "cpu"]
    assert originals.movable_bytes == 3 * weight.nbytes and room.bytes == 0
    originals.make_room(Room(-weight.nbytes - 1))
    found = [originals.find(name) for name in "abcd"]
    assert [kept.device.type for kept in found if kept is not None] == ["cpu", "cpu", "cuda", "cpu"]
    assert [originals.leave(name) for name in "abcd"] == [0, 0, weight.nbytes, 0]
    assert originals.find("a") is not None and originals.find("c") is None


@pytest.mark.parametrize("eight_bits", [False, True])
def test_on_a_device_weights_meet_tensors_of_the_device_alone(
    root: Path, device: torch.device, eight_bits: bool
) -> None:
    model = small_transformer(small(ONE)).requires_grad_(False).bfloat16().to(device)
    with torch.no_grad():
        adapters = Adapters(Arrival(model, torch.bfloat16, Carrier(device)))
        join_projections(blocks_in_order(model)[0])
        if eight_bits:
            quantise(model, keeps_originals=True)
        lora = read_lora(root / "loras" / "a.safetensors", adapters.shapes)
        bias = torch.zeros(model.blocks[0].norm2.bias.shape)
        whole = replace(lora, differences={"blocks.0.norm2.bias": bias})
        loras = [(adapters.fitted(whole), STRENGTH)]
        room = Room(10**9)
        adapters.put_on(loras, room)
        taken = 10**9 - room.bytes
        assert taken == adapters.originals.movable_bytes > 0
        adapters.put_on([], room)
        assert (adapters.originals.movable_bytes, room.bytes) == (0, 10**9)
        adapters.put_on(loras, Room(0))
        assert adapters.originals.movable_bytes == 0


def test_originals_that_no_memory_takes_are_refused(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora_originals, "free_bytes", lambda _: 100)
    originals, weight = Originals(device), torch.zeros(8, 8, device=device)
    with pytest.raises(OutOfMemory):
        originals.keep("a", weight, Room(0))
    assert originals.find("a") is None
