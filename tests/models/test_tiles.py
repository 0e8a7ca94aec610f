"""Overlapping tiles: less memory at once, and nearly the picture of the whole decode."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from models.engine import EngineSettings
from models.errors import OutOfMemory, TuningError
from models.generate import generate
from models.limits import CUDA_CHUNK_PIXELS
from models.loading import load_engine
from models.parallel.mesh import Mesh
from models.parallel.plan import ParallelPlan
from models.vae.streaming_vae import StreamingVae
from models.vae.tiles import Tiles, Tiling
from models.variants import VARIANTS

from .checkpoints import small, vae
from .conftest import REQUEST
from .test_vae import VOLUMES, noise

TILING = Tiling(size=96, overlap=32)


@pytest.fixture(scope="module", params=["wan2.1-t2v-1.3b", "wan2.2-ti2v-5b"])
def local_vae(request: pytest.FixtureRequest) -> Any:
    """A VAE without attention among the pixels of a frame, which reaches beyond any tile."""
    torch.manual_seed(11)
    model = vae(small(request.param))
    for half in (model.encoder, model.decoder):
        for attention in half.mid_block.attentions:
            nn.init.zeros_(attention.proj.weight)
            nn.init.zeros_(attention.proj.bias)
    with torch.no_grad():
        model.decoder.conv_out.weight.mul_(0.3)  # a difference beyond −1 or 1 would not show
    return model


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (4, 30), (11, 13), (25, 9), (12, 12)])
def test_tiles_of_a_picture_join_to_it(size: tuple[int, int], scale: int) -> None:
    tiles = Tiles(*size, 8, TILING)
    pictures = noise(2, 3, size[0] * scale, size[1] * scale)
    parts = list(tiles.cut(pictures))
    assert len(parts) == len(tiles) == -(-max(size[0] - 4, 1) // 8) * -(-max(size[1] - 4, 1) // 8)
    assert all(max(part.shape[2:]) <= 12 * scale for part in parts)
    assert max(part.shape[2] * part.shape[3] for part in parts) == tiles.largest * scale**2
    torch.testing.assert_close(tiles.joined(parts), pictures)


def test_across_an_overlap_one_tile_fades_into_the_next() -> None:
    tiles = Tiles(1, 20, 8, TILING)
    joined = tiles.joined([torch.zeros(1, 1, 1, 12), torch.ones(1, 1, 1, 12)])[0, 0, 0]
    assert joined.tolist() == [0.0] * 8 + [0.125, 0.375, 0.625, 0.875] + [1.0] * 8


def decoded(model: Any, latents: torch.Tensor, tiling: Tiling | None) -> list[torch.Tensor]:
    return list(StreamingVae(model, chunk_pixels=1, tiling=tiling).decode(latents))


def test_a_tiled_decode_is_the_whole_one_but_for_the_seams(local_vae: Any) -> None:
    stride = local_vae.config.scale_factor_spatial
    latents = noise(1, local_vae.config.z_dim, 2, 448 // stride, 32 // stride)
    whole, tiled = decoded(local_vae, latents, None), decoded(local_vae, latents, Tiling())
    assert [len(chunk) for chunk in tiled] == [1, 4]
    error = (torch.cat(tiled) - torch.cat(whole)).abs().amax(dim=(0, 1, 3))
    # two tiles, which share the rows 192 … 255; a pixel sees about a hundred rows around it
    assert error[:96].max() < 1e-5
    assert error[352:].max() < 1e-5
    assert error.mean() < 0.1 * torch.cat(whole).std()
    assert 1e-4 < error[192:256].max() < torch.cat(whole).std()


def test_tiles_are_decoded_as_volumes_too(local_vae: Any) -> None:
    stride = local_vae.config.scale_factor_spatial
    latents = noise(1, local_vae.config.z_dim, 3, 128 // stride, 32 // stride)
    expected = decoded(local_vae, latents, TILING)
    vae = StreamingVae(local_vae, tiling=TILING, conv=VOLUMES)
    vae.chunk_pixels = 2 * 96 * 32 * 4  # two latent frames of a tile
    torch.testing.assert_close(torch.cat(list(vae.decode(latents))), torch.cat(expected), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_tiles_are_decoded_in_small_chunks_on_a_device_of_large_ones(local_vae: Any) -> None:
    stride = local_vae.config.scale_factor_spatial
    latents = noise(1, local_vae.config.z_dim, 2, 256 // stride, 256 // stride)
    streaming = StreamingVae(local_vae, chunk_pixels=CUDA_CHUNK_PIXELS)
    chunks = [len(next(streaming.decode(latents, tiling))) for tiling in (None, Tiling(size=192))]
    assert chunks == [5, 1]


def test_a_tiled_encode_is_the_whole_one_but_for_the_seams(local_vae: Any) -> None:
    video = torch.zeros(1, 3, 9, 448, 32)
    video[:, :, :3] = noise(1, 3, 3, 448, 32).clamp(-1, 1)
    whole = StreamingVae(local_vae).encode(video)
    tiled = StreamingVae(local_vae, tiling=Tiling()).encode(video)
    error = (tiled - whole).abs().amax(dim=(0, 1, 2, 4))
    away = 96 // local_vae.config.scale_factor_spatial
    assert error[:away].max() < 1e-5
    assert error[-away:].max() < 1e-5
    assert error.mean() < 0.1 * whole.std()
    assert 1e-4 < error.max() < whole.std()


def test_a_picture_of_one_tile_is_decoded_as_without(local_vae: Any) -> None:
    latents = noise(1, local_vae.config.z_dim, 2, 3, 4)
    pairs = zip(decoded(local_vae, latents, Tiling()), decoded(local_vae, latents, None), strict=True)
    assert all(torch.equal(tiled, whole) for tiled, whole in pairs)


class Largest(TorchDispatchMode):
    """A dispatch mode that records the number of elements of the largest tensor made."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return made


@pytest.mark.slow
def test_with_tiles_the_layers_have_a_tile_in_memory_at_once(local_vae: Any) -> None:
    stride = local_vae.config.scale_factor_spatial
    latents = noise(1, local_vae.config.z_dim, 2, 256 // stride, 256 // stride)
    frames = noise(5, 3, 256, 256).clamp(-1, 1).unbind()
    largest = []
    for tiling in (None, TILING):
        streaming = StreamingVae(local_vae, chunk_pixels=1, tiling=tiling)
        for work in (lambda: list(streaming.decode(latents)), lambda: streaming.encode_frames(frames)):  # noqa: B023
            with Largest() as measured:
                work()
            largest.append(measured.numbers)
    whole_decode, whole_encode, tiled_decode, tiled_encode = largest
    assert tiled_decode < whole_decode / 3
    assert tiled_encode < whole_encode / 2  # the frames themselves, which every tile is cut from


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_with_tiles_the_device_remembers_one_of_them(local_vae: Any) -> None:
    model = copy.deepcopy(local_vae).cuda()
    stride = model.config.scale_factor_spatial
    latents = noise(1, model.config.z_dim, 3, 512 // stride, 512 // stride)
    peaks = []
    for tiling in (None, TILING):
        streaming = StreamingVae(model, chunk_pixels=1, tiling=tiling)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        for chunk in streaming.decode(latents):
            del chunk
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < peaks[0] / 3


@pytest.mark.slow
def test_an_engine_is_loaded_with_tiles_by_its_option(demo_weights: Any) -> None:
    settings = EngineSettings(VARIANTS["demo"], demo_weights, options={"vae_tiling": True})
    assert load_engine(settings).parts.vae.tiling == Tiling()
    assert load_engine(replace(settings, options={})).parts.vae.tiling is None


WIDE = replace(REQUEST, width=320, height=32, num_frames=13, steps=1)


def full_at(engine: Any, chunk: int) -> None:
    """Make the decode of whole pictures run out of memory from this chunk on."""
    engine.parts.vae.chunk_pixels = 1
    seen: list[int] = []

    def before(_: nn.Module, args: tuple[Any, ...], how: dict[str, bool]) -> None:
        width = args[0].x.shape[3] * VARIANTS["demo"].spatial_stride
        if not how["begins"] and width > Tiling().size:
            seen.append(1)
            if len(seen) > chunk:
                raise torch.OutOfMemoryError

    engine.parts.vae.decoder.register_forward_pre_hook(before, with_kwargs=True)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [0, 2])
def test_where_memory_runs_out_the_rest_is_decoded_in_tiles(demo_weights: Path, chunk: int) -> None:
    demo = VARIANTS["demo"]
    plain = load_engine(EngineSettings(demo, demo_weights))
    plain.parts.vae.chunk_pixels = 1
    whole = np.concatenate(list(generate(plain, WIDE)))
    tiled_engine = load_engine(EngineSettings(demo, demo_weights, options={"vae_tiling": True}))
    tiled_engine.parts.vae.chunk_pixels = 1
    tiled = np.concatenate(list(generate(tiled_engine, WIDE)))
    engine = load_engine(EngineSettings(demo, demo_weights, options={"tile_when_full": True}))
    full_at(engine, chunk)
    frames = np.concatenate(list(generate(engine, WIDE)))
    shown = {0: 0, 2: 5}[chunk]
    assert np.array_equal(frames[:shown], whole[:shown])
    assert np.array_equal(frames[shown:], tiled[shown:])
    assert not np.array_equal(frames[shown:], whole[shown:])


def test_without_the_option_that_task_alone_fails(demo_weights: Path) -> None:
    engine = load_engine(EngineSettings(VARIANTS["demo"], demo_weights))
    full_at(engine, 2)
    with pytest.raises(OutOfMemory):
        list(generate(engine, WIDE))
    assert len(list(generate(engine, replace(WIDE, width=64)))) > 0


def test_a_group_does_not_tile(demo_weights: Path) -> None:
    settings = EngineSettings(VARIANTS["demo"], demo_weights, options={"tile_when_full": True})
    with pytest.raises(TuningError, match="tile_when_full is for one device"):
        load_engine(settings, _TwoRanks())


class _TwoRanks(Mesh):
    """A rank's place in a group without transfers."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = ParallelPlan(ulysses=2)
