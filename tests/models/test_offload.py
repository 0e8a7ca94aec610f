"""Offloaded weights: on the device whenever they are used, and no longer than necessary.

The device here is a CPU, where a fetched copy is a copy too, so the place of each weight shows. Streams and
pinned memory are CUDA's alone.
"""

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.engine import EngineSettings
from models.errors import OutOfMemory, TuningError
from models.loading import load_engine
from models.memory import check
from models.memory.estimate import KernelScratch, parameters, request_memory
from models.memory.experts import ExpertRoom, expert_room, may_take_turns
from models.parallel.plan import plan
from models.pipeline.wan_engine import WanEngine
from models.speed import tuned_model as tuned
from models.speed.offload import HostWeights, Offloader, StreamedBlocks, check_offload
from models.tuning import Tuning
from models.variants import VARIANTS, Variant

from .checkpoints import base_folders, save_checkpoint, small
from .conftest import DEMO_REQUEST, Model, picture
from .test_checkpoints import defaults

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


def tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def layers(count: int) -> list[Any]:
    return [nn.BatchNorm1d(3) for _ in range(count)]  # has buffers too


def host(module: nn.Module) -> HostWeights:
    return HostWeights(tensors(module), CPU)


def test_weights_are_a_copy_while_they_are_fetched_and_the_hosts_own_otherwise() -> None:
    module = nn.BatchNorm1d(3)
    values = [tensor.clone() for tensor in tensors(module)]
    weights = host(module)
    before = [tensor.data_ptr() for tensor in tensors(module)]
    assert all(map(torch.equal, tensors(module), values))
    with torch.inference_mode():  # as a run does
        weights.fetch()
    fetched = weights.fetched
    assert fetched
    assert not set(before) & {tensor.data_ptr() for tensor in tensors(module)}
    assert all(map(torch.equal, tensors(module), values))
    weights.release()
    assert not weights.fetched
    assert [tensor.data_ptr() for tensor in tensors(module)] == before


def test_weights_of_a_part_lie_in_one_piece_each_as_it_was() -> None:
    parts = [
        torch.randn(5, 3, dtype=torch.float64),
        torch.tensor(7),
        torch.randn(2, 3, 4, 4).bfloat16().to(memory_format=torch.channels_last),
        torch.randn(3, 5).t(),
    ]
    before = [(part.clone(), part.dtype, part.stride()) for part in parts]
    weights = HostWeights(parts, CPU)

    def check() -> int:
        for part, (value, dtype, stride) in zip(parts, before, strict=True):
            assert torch.equal(part, value)
            assert (part.dtype, part.stride()) == (dtype, stride)
            assert part.data_ptr() % 64 == parts[0].data_ptr() % 64  # where vectors are read from
        (piece,) = {part.untyped_storage().data_ptr() for part in parts}
        return piece

    resting = check()
    weights.fetch()
    assert check() != resting
    weights.release()
    assert check() == resting


class Runtime:
    """The two calls of the CUDA runtime that pin memory."""

    def __init__(self) -> None:
        self.pinned: dict[int, int] = {}

    def cudaHostRegister(self, start: int, size: int, flags: int) -> int:
        self.pinned[start] = size
        return flags

    def cudaHostUnregister(self, start: int) -> int:
        del self.pinned[start]
        return 0


def test_memory_is_pinned_to_its_exact_size_for_as_long_as_it_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtime = Runtime()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(torch.cuda, "check_error", lambda status: None)
    part = torch.zeros(10_000, dtype=torch.bfloat16)
    weights = HostWeights([part], CUDA)
    assert list(runtime.pinned.values()) == [-(-part.nbytes // 256) * 256]
    assert list(runtime.pinned) == [part.data_ptr()]
    del weights
    gc.collect()
    assert runtime.pinned == {}
    HostWeights([], CUDA)  # as of a transformer whose every tensor is in a block
    assert runtime.pinned == {}


def test_the_device_belongs_to_one_part_at_a_time() -> None:
    offloader, parts = Offloader(CPU), [host(module) for module in layers(3)]
    for part in (parts[0], parts[0], parts[2], parts[1]):
        offloader.load(part)
        assert [other.fetched for other in parts] == [other is part for other in parts]


def test_a_part_that_does_not_fit_leaves_nothing_behind() -> None:
    offloader, (first, second) = Offloader(CPU), layers(2)
    held = host(first)
    offloader.load(held)
    broken = HostWeights(tensors(second), torch.device("xpu", 99))  # no machine has it
    with pytest.raises((RuntimeError, AssertionError)):
        offloader.load(broken)
    assert not broken.fetched
    assert all(tensor.device == CPU for tensor in tensors(second))
    offloader.load(held)
    assert held.fetched


def test_a_module_takes_its_turn_when_it_is_called() -> None:
    offloader = Offloader(CPU)
    modules = layers(2)
    for module in modules:
        module.eval()
        offloader.add(module)
    home = [module.weight.data_ptr() for module in modules]
    x = torch.randn(2, 3)
    for turn in (0, 1, 1, 0):
        modules[turn](input=x)
        away = [module.weight.data_ptr() != ptr for module, ptr in zip(modules, home, strict=True)]
        assert away == [turn == 0, turn == 1]


def test_weights_that_come_until_a_part_is_at_work_are_known() -> None:
    offloader, (vae, text, resident) = Offloader(CPU), layers(3)
    assert offloader.growth(resident) == 0
    transformer, *blocks = (nn.Linear(64, 64 * size) for size in (1, 1, 2, 3, 2))
    whole = nn.ModuleList([transformer, *blocks])
    stream = StreamedBlocks(whole, blocks, offloader)
    for module in (vae, text):
        offloader.add(module)
    most = stream.others.size_bytes + 3 * stream.blocks[blocks[2]].size_bytes
    vae_bytes = host(vae).size_bytes
    assert offloader.growth(whole) == most
    assert offloader.growth(vae) == vae_bytes
    assert offloader.growth(resident) == most  # what takes turns may be there beside it
    stream.ready()
    assert offloader.growth(whole) == most - stream.others.size_bytes
    assert offloader.growth(vae) == vae_bytes - stream.others.size_bytes


def test_a_run_is_refused_where_an_expert_that_is_still_to_come_leaves_it_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuned, "check_offload", lambda *_, **__: None)
    name = "wan2.2-t2v-a14b"
    save_checkpoint(small(name), tmp_path / "weights")
    engine = load_engine(EngineSettings(small(name), tmp_path / "weights", options={"offload": "experts"}))
    request = defaults(name, "t2v", steps=1)
    run = request_memory(small(name), request, 4).needed()
    expert = host(engine.parts.denoiser.transformer).size_bytes
    monkeypatch.setattr(check, "free_bytes", lambda _: run + expert - 1)
    with pytest.raises(OutOfMemory):
        engine.prepare(request)
    monkeypatch.setattr(check, "free_bytes", lambda _: run + expert)
    engine.prepare(request)
    monkeypatch.setattr(check, "free_bytes", lambda _: run)  # the expert has come
    engine.prepare(request)


def streamed(count: int, offloader: Offloader | None = None) -> tuple[StreamedBlocks, list[nn.Module]]:
    blocks = layers(count)
    whole = nn.ModuleList([*blocks, nn.Linear(2, 2)])
    return StreamedBlocks(whole, blocks, offloader or Offloader(CPU)), blocks


def fetched(stream: StreamedBlocks, blocks: Sequence[nn.Module]) -> list[int]:
    return [number for number, block in enumerate(blocks) if stream.blocks[block].fetched]


def test_a_block_is_fetched_before_the_one_ahead_of_it_computes_and_leaves_soon_after() -> None:
    stream, blocks = streamed(5)
    seen = []
    with stream.each(blocks) as turn:
        for block in turn:
            seen.append((blocks.index(block), fetched(stream, blocks)))
    assert seen == [
        (0, [0, 1]),
        (1, [0, 1, 2]),  # a device may still be at the last one
        (2, [1, 2, 3]),
        (3, [2, 3, 4]),
        (4, [3, 4]),
    ]
    assert fetched(stream, blocks) == []


def test_blocks_left_early_or_by_an_error_are_dropped() -> None:
    stream, blocks = streamed(4)
    with stream.each(blocks) as turn:
        next(turn)
    assert fetched(stream, blocks) == []
    with pytest.raises(ZeroDivisionError), stream.each(blocks) as turn:
        for _ in turn:
            _ = 1 / 0
    assert fetched(stream, blocks) == []


def test_the_layers_outside_the_blocks_take_their_turn_as_one_part() -> None:
    offloader = Offloader(CPU)
    stream, blocks = streamed(2, offloader)
    stream.ready()
    assert stream.others.fetched
    assert fetched(stream, blocks) == []
    offloader.load(host(nn.Linear(2, 2)))
    assert not stream.others.fetched


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task", "how"),
    [
        ("wan2.2-i2v-a14b", "i2v", "experts"),
        *(
            (name, task, how)
            for how in ("model", "group")
            for name, task in (
                ("wan2.2-i2v-a14b", "i2v"),
                ("wan2.1-flf2v-14b", "flf2v"),
                ("wan2.1-vace-1.3b", "i2v"),
            )
        ),
    ],
)
def test_a_video_does_not_depend_on_where_weights_rest(
    make: Any, monkeypatch: pytest.MonkeyPatch, name: str, task: str, how: str
) -> None:
    monkeypatch.setattr(tuned, "check_offload", lambda *_, **__: None)  # which would ask for a CUDA device
    for threshold in (0.0, 0.9):  # with the cache, most steps leave the blocks early
        expected_latents, expected_frames = make(name, task, cache_threshold=threshold)
        latents, frames = make(name, task, cache_threshold=threshold, offload=how)
        torch.testing.assert_close(latents, expected_latents, atol=1e-4, rtol=0)
        assert np.abs(frames.astype(int) - expected_frames).max() <= 1


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Any, Any]]:
    """A video's latents, and its frames in a run beside it; with the same options made once."""
    folder = base_folders(tmp_path_factory.mktemp("checkpoints"))

    @cache
    def made(name: str, task: str, **options: object) -> tuple[Any, Any]:
        request = defaults(name, task, steps=4)
        engine = load_engine(EngineSettings(small(name), folder(small(name)), options=options))
        if "offload" in options:
            check_weights(engine, everything=options["offload"] != "experts")
        waiting = engine.prepare(request)
        frames = Model(engine, engine.parts.text, None).frames(request)  # takes all parts through their turns
        while waiting.step < waiting.total_steps:
            engine.denoise_step(waiting)
        return waiting.latents, frames

    return made


def check_weights(engine: WanEngine, everything: bool) -> None:
    """Make any computation with offloaded weights fail: with all of them, or with the transformers'."""
    text: Any = engine.parts.text
    parts = [expert.transformer for expert in engine.parts.denoisers]
    if everything:
        parts += [*engine.parts.vae.networks, text.text.encoder]
    if everything and engine.parts.image_encoder is not None:
        parts.append(engine.parts.image_encoder.encoder)
    homes = {id(tensor): tensor.data_ptr() for part in parts for tensor in tensors(part)}

    def check(module: nn.Module, *_: object) -> None:
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        assert all(tensor.data_ptr() != homes[id(tensor)] for tensor in own), module

    for part in parts:
        for module in part.modules():
            if module is not part:
                module.register_forward_pre_hook(check)


@pytest.mark.parametrize("how", ["model", "group"])
def test_options_that_exclude_offload_are_refused_with_it(how: Any) -> None:
    with pytest.raises(TuningError, match="offload must be none on a cpu engine"):
        check_offload(Tuning(offload=how), CPU)
    others: tuple[dict[str, Any], ...] = ({"compile": True}, {"fp8": True})
    for other in others:
        with pytest.raises(TuningError, match=f"offload {how} and {next(iter(other))} do not go together"):
            check_offload(Tuning(offload=how, **other), CUDA)
    check_offload(Tuning(offload=how, cache_threshold=0.1), CUDA)
    check_offload(Tuning(fp8=True, compile=True), CPU)  # not this one's business


def test_experts_take_turns_only_where_there_are_two() -> None:
    with pytest.raises(TuningError, match="for a model with two"):
        check_offload(Tuning(offload="experts"), CUDA)
    check_offload(Tuning(offload="experts"), CUDA, two_experts=True)


A14B = VARIANTS["wan2.2-t2v-a14b"]
HOST = 2**40


def room(devices: int, free_gb: float, *, rank: int = 0, host_free: int = HOST) -> ExpertRoom:
    """The room of a rank of a group whose GPUs have so much free memory."""
    elements = {
        part: count for part, count in parameters(A14B).items() if part != "text_encoder" or rank == 0
    }
    shared = plan(devices, A14B.heads, guidance=True)
    free = int(free_gb * 1e9)
    return expert_room(A14B, elements, 2, shared, KernelScratch(fused=True), free=free, host_free=host_free)


@pytest.mark.parametrize(
    ("devices", "rank", "free_gb", "in_turn"),
    [
        (1, 0, 140.0, False),  # an H200
        (8, 0, 84.0, False),  # H100s, whose share of a run is small
        (8, 0, 47.0, True),  # of 48 GB
        (8, 7, 47.0, True),
        (8, 7, 62.0, False),  # a rank without the text encoder has room for both
        (8, 0, 62.0, True),
        (1, 0, 40.0, False),  # where not even one fits, the settings must say what to offload
    ],
)
def test_both_experts_stay_on_the_device_where_they_fit(
    devices: int, rank: int, free_gb: float, in_turn: bool
) -> None:
    found = room(devices, free_gb, rank=rank)
    assert found.in_turn is in_turn
    assert str(found).startswith("one expert at a time" if in_turn else "both experts stay")
    assert found.both - found.one == 2 * parameters(A14B)["transformer"]
    assert found.waiting == 2 * (found.both - found.one) * devices


def test_experts_take_turns_only_with_room_in_the_host_for_those_of_all_ranks() -> None:
    needed = room(8, 47.0).waiting
    assert needed == pytest.approx(457e9, rel=0.01)
    assert room(8, 47.0, host_free=needed).in_turn
    assert not room(8, 47.0, host_free=needed - 1).in_turn


@pytest.mark.parametrize(
    ("options", "variant", "expected"),
    [
        ({}, A14B, True),
        ({"attention": "sdpa"}, A14B, True),
        ({}, VARIANTS["wan2.1-t2v-14b"], False),
        ({"fp8": True}, A14B, False),
        ({"compile": True}, A14B, False),
        ({"offload": "model"}, A14B, False),
    ],
)
def test_what_is_set_or_excludes_offloading_is_left_alone(
    options: dict[str, Any], variant: Variant, expected: bool
) -> None:
    assert may_take_turns(Tuning(**options), variant) is expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="copies to a CUDA device beside its work")
@pytest.mark.parametrize("how", ["model", "group"])
def test_a_device_makes_the_same_video_from_visiting_weights(demo_weights: Path, how: str) -> None:
    def latents(offload: str) -> torch.Tensor:
        settings = EngineSettings(VARIANTS["demo"], demo_weights, "cuda", options={"offload": offload})
        engine = load_engine(settings)
        request = replace(DEMO_REQUEST, image=picture(DEMO_REQUEST.width, DEMO_REQUEST.height))
        return Model(engine, engine.parts.text, None).latents(request)

    torch.testing.assert_close(latents(how), latents("none"), atol=1e-2, rtol=0)
