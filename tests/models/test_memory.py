"""Memory: the estimate is near the measured peak, and a request that does not fit is refused in time."""

import json
import math
import re
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import limits
from models.demo.architecture import build_text_encoder
from models.engine import EngineSettings
from models.errors import OutOfMemory, TuningError, WeightsError
from models.kernels.eager import EAGER
from models.loading import load_engine
from models.memory import check as device_memory
from models.memory import estimate as memory
from models.memory.estimate import (
    IMAGE_ENCODER_PARAMETERS,
    MARGIN,
    KernelScratch,
    parameters,
    request_memory,
    resident_weights,
)
from models.memory.peak import peak_bytes
from models.memory.scratch import kernel_scratch
from models.parallel.plan import ParallelPlan
from models.pipeline.wan_engine import WanEngine
from models.speed.fp8 import QUANTISING_BYTES, quantise
from models.tuning import Tuning
from models.vae.streaming_vae import StreamingVae
from models.variants import VARIANTS
from models.weights.safetensors_header import stored_tensors
from testbed.random_engine import RandomModel, autoencoder_of, clip_vision, transformer_of, umt5_of

from .checkpoints import save_checkpoint, small
from .conftest import REQUEST, Model

CPU = torch.device("cpu")
BASES = [name for name, variant in VARIANTS.items() if not variant.distilled]


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", BASES)
def test_parameters_are_those_of_the_published_configuration(name: str) -> None:
    variant = VARIANTS[name]
    counted = parameters(variant)
    with torch.device("meta"):
        assert counted["vae"] == pytest.approx(count(autoencoder_of(variant)), rel=1e-3)
    assert counted["transformer"] == count(transformer_of(variant))
    assert counted.get("transformer_2") == (None if variant.boundary is None else counted["transformer"])
    assert counted.get("image_encoder") == (IMAGE_ENCODER_PARAMETERS if variant.image_tokens else None)


def test_encoders_have_the_parameters_of_the_published_configuration() -> None:
    assert count(clip_vision()) == IMAGE_ENCODER_PARAMETERS
    variant = VARIANTS["wan2.1-t2v-14b"]
    assert count(umt5_of(variant)) == parameters(variant)["text_encoder"]
    assert count(build_text_encoder()) == parameters(VARIANTS["demo"])["text_encoder"]


def test_the_engine_runs_as_the_estimate_takes_it_to() -> None:
    variant = VARIANTS["demo"]
    with torch.device("meta"):
        vae = autoencoder_of(variant)
    assert StreamingVae(vae.to_empty(device="cpu")).chunk_pixels == limits.CHUNK_PIXELS
    assert signature(WanEngine).parameters["batched_tokens"].default is limits.BATCHED_TOKENS


SHAPES = {
    # as the 14B's: channels between the linear layers are 2.7 times those of a token
    "14b": replace(
        VARIANTS["wan2.1-t2v-14b"],
        layers=2,
        heads=4,
        ffn_dim=1382,
        text_dim=32,
        vae_dim=8,
        vae_encoder_dim=8,
    ),
    # as the 1.3B's: 5.8 times
    "1.3b": replace(
        VARIANTS["wan2.1-t2v-1.3b"],
        layers=2,
        heads=4,
        ffn_dim=2986,
        text_dim=32,
        vae_dim=8,
        vae_encoder_dim=8,
    ),
    # another VAE
    "5b": replace(
        VARIANTS["wan2.2-ti2v-5b"],
        layers=2,
        heads=4,
        ffn_dim=2389,
        text_dim=32,
        vae_dim=16,
        vae_encoder_dim=10,
    ),
    "vace": replace(
        VARIANTS["wan2.1-vace-1.3b"],
        layers=2,
        heads=4,
        ffn_dim=2986,
        text_dim=32,
        vae_dim=8,
        vae_encoder_dim=8,
        control_blocks=1,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "size", "dtype"),
    [
        ("14b", (160, 96, 17), torch.float32),
        ("14b", (320, 192, 9), torch.bfloat16),
        ("1.3b", (160, 96, 17), torch.bfloat16),
        ("1.3b", (160, 96, 25), torch.float32),
        ("5b", (160, 96, 17), torch.float32),
        ("vace", (160, 96, 17), torch.float32),
    ],
)
def test_the_estimate_is_near_what_a_run_takes(
    shape: str, size: tuple[int, int, int], dtype: torch.dtype
) -> None:
    variant = SHAPES[shape]
    built = RandomModel(variant, CPU, dtype).engine(Tuning())
    width, height, num_frames = size
    request = replace(
        REQUEST,
        width=width,
        height=height,
        num_frames=num_frames,
        steps=2,
    )
    scratch = kernel_scratch(CPU, dtype)
    expected = request_memory(variant, request, dtype.itemsize, scratch=scratch)
    runs: list[Any] = []

    def two_steps() -> None:
        run = built.prepare(request)
        while run.step < run.total_steps:
            built.denoise_step(run)
        runs.append(run)

    stepping = peak_bytes(two_steps, CPU)
    decoding = peak_bytes(lambda: [None for _ in built.decode(runs[0])], CPU)
    preparing = expected.text_keys + max(expected.stacking, expected.step)
    assert max(preparing, expected.encode) / stepping == pytest.approx(1.1, abs=0.4)
    assert expected.decode / decoding == pytest.approx(1.1, abs=0.4)
    # so what is refused by the check is never less than what would have been taken
    assert MARGIN * max(preparing, expected.encode) >= stepping
    assert MARGIN * expected.decode >= decoding


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_copies_of_what_is_quantised_are_counted(dtype: torch.dtype) -> None:
    rows = torch.zeros(300, 700, dtype=dtype)
    copies = peak_bytes(lambda: EAGER.scaled_rows(rows), CPU)
    assert copies == pytest.approx(QUANTISING_BYTES * rows.numel(), rel=0.02)
    variant = VARIANTS["wan2.1-t2v-14b"]
    request = replace(REQUEST, width=832, height=480, num_frames=81)
    plain, quantising = (
        request_memory(variant, request, 2, scratch=KernelScratch(quantised=size)).step
        for size in (0.0, 10.0)
    )
    tokens = variant.tokens(832, 480, 81)
    # without fp8 the adding after the feed-forward takes more than its widest tensor does
    assert quantising - plain == tokens * (12 * variant.ffn_dim + 8 * variant.dim - 24 * variant.dim)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_memory_of_the_kernels_is_known_whatever_the_processor(dtype: torch.dtype) -> None:
    scratch = kernel_scratch(CPU, dtype)
    # other sizes than those that it was measured with
    tokens, weight = torch.zeros(500, 96, dtype=dtype), torch.zeros(700, 96, dtype=dtype)
    pictures = torch.zeros(2, 24, 40, 56, dtype=dtype).to(memory_format=torch.channels_last)
    kernel = torch.zeros(40, 24, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        linear = peak_bytes(lambda: F.linear(tokens, weight), CPU)
        convolution = peak_bytes(lambda: F.conv2d(pictures, kernel, padding=1), CPU)
    assert linear <= 1.1 * 500 * 700 * (dtype.itemsize + scratch.linear)
    pixels = 2 * 40 * 56
    own = pixels * (40 * scratch.result + 24 * 9 * scratch.column)
    assert convolution <= 1.1 * (pixels * 40 * dtype.itemsize + own)


def test_kernels_in_float32_and_of_other_devices_take_nothing_for_themselves() -> None:
    assert kernel_scratch(CPU, torch.float32) == KernelScratch()
    assert kernel_scratch(torch.device("meta"), torch.bfloat16) == KernelScratch()


def test_more_devices_need_less_each() -> None:
    variant = VARIANTS["wan2.1-t2v-14b"]
    request = replace(REQUEST, width=832, height=480, num_frames=81)
    alone = request_memory(variant, request, 2)
    for plan in (ParallelPlan(ulysses=4), ParallelPlan(ring=2, ulysses=2)):
        shared = request_memory(variant, request, 2, plan)
        assert shared.step < 0.5 * alone.step
        assert shared.decode < alone.decode
        assert shared.text_keys == alone.text_keys
    assert request_memory(variant, request, 2, ParallelPlan(cfg=2)).text_keys == alone.text_keys / 2


def test_the_most_frames_that_fit_are_said() -> None:
    variant = VARIANTS["wan2.1-t2v-14b"]
    request = replace(REQUEST, width=832, height=480, num_frames=161)
    for asked in (101, 121, 161):  # shorter ones all need the memory of the decode
        free = request_memory(variant, replace(request, num_frames=asked), 2).needed()
        assert memory.most_frames(variant, request, 2, None, free) == asked
        assert memory.most_frames(variant, request, 2, None, free - 1) == asked - 4
    assert memory.most_frames(variant, request, 2, None, 1000) is None


def test_a_request_beyond_the_memory_is_refused_before_any_work(plain_model: Model) -> None:
    long = replace(REQUEST, width=160, height=96, num_frames=40_000_001)
    with pytest.raises(
        OutOfMemory, match=r"need \d+\.\d GB .* \d+\.\d GB are free: .* (\d+) frames fit"
    ) as said:
        plain_model.engine.prepare(long)
    fitting = re.search(r"(\d+) frames fit", str(said.value))
    assert fitting is not None
    assert 1 <= int(fitting[1]) < 40_000_001
    with pytest.raises(OutOfMemory, match="ask for a smaller size"):
        plain_model.engine.prepare(replace(REQUEST, width=16_000_000, height=16_000_000))
    assert len(plain_model.frames(REQUEST)) == REQUEST.num_frames


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "model"
    save_checkpoint(small("wan2.1-t2v-1.3b"), folder)
    return folder


def test_weights_beyond_the_memory_are_refused_before_they_are_read(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "huge"
    shutil.copytree(checkpoint, folder)
    numbers = 10**12
    header = {"weight": {"dtype": "BF16", "shape": [10**6, 10**6], "data_offsets": [0, 2 * numbers]}}
    content = json.dumps(header).encode()
    with next((folder / "text_encoder").glob("*.safetensors")).open("wb") as file:
        file.write(struct.pack("<Q", len(content)) + content)
        file.truncate(8 + len(content) + 2 * numbers)  # a hole: it takes no room on the disk
    settings = EngineSettings(small("wan2.1-t2v-1.3b"), folder)
    with pytest.raises(WeightsError, match=r"need 400\d\.\d GB on cpu and \d+\.\d GB are free"):
        load_engine(settings)  # in float32
    with pytest.raises(WeightsError, match=r"need 200\d\.\d GB"):
        load_engine(replace(settings, dtype="bfloat16"))


def test_shards_that_no_index_names_are_not_counted(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    shutil.copytree(checkpoint, folder)
    (file,) = (folder / "transformer").glob("*.safetensors")
    index = {"metadata": {}, "weight_map": {"weight": file.name}}
    (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "transformer" / "other.safetensors").write_bytes(b"of another format")
    settings = EngineSettings(small("wan2.1-t2v-1.3b"), folder)
    device_memory.check_weights(folder, settings, CPU, torch.float32)


@pytest.mark.parametrize(
    ("device", "options", "ranks", "host", "on_device", "holds"),
    [
        ("cpu", {}, 1, 50, 0, True),  # with room for the text encoder and the VAE, too
        ("cpu", {}, 50, 50, 0, False),
        ("cuda", {}, 1, 1, 0, True),
        ("cuda", {}, 2, 1, 0, False),
        ("cuda", {}, 2, 1, 50, True),
        ("cuda", {"offload": "group"}, 1, 2, 0, True),
        ("cuda", {"offload": "group"}, 1, 1, 50, False),
        ("cuda", {"fp8": True}, 1, 1, 0, True),  # they are quantised on their way past the host
        ("cuda", {"fp8": True}, 1, 0, 50, False),
    ],
)
def test_originals_of_weights_need_memory_beside_them(
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    options: dict[str, object],
    ranks: int,
    host: int,
    on_device: int,
    holds: bool,
) -> None:
    settings, tuning = (
        EngineSettings(small("wan2.1-t2v-1.3b"), checkpoint, options=options),
        Tuning.from_options(options),
    )
    files = (checkpoint / "transformer").glob("*.safetensors")
    weights = sum(math.prod(tensor.shape) for file in files for tensor in stored_tensors(file)) * 4
    free = {"cpu": host * weights, "cuda": on_device * weights}
    monkeypatch.setattr(device_memory, "free_bytes", lambda asked: free[asked.type])
    plan, place = ParallelPlan(ulysses=ranks), torch.device(device)
    found = device_memory.holds_originals(checkpoint, settings, place, torch.float32, plan, tuning.offload)
    assert found is holds


def test_the_estimate_counts_offload() -> None:
    parts = {"transformer": 1000, "transformer_2": 1000, "vae": 10, "text_encoder": 400}
    variant = replace(VARIANTS["wan2.2-t2v-a14b"], layers=40)
    assert resident_weights(parts, 2, variant) == 4820
    assert resident_weights(parts, 2, variant, offload="experts") == 2820
    assert resident_weights(parts, 2, variant, offload="model") == 2000
    assert resident_weights(parts, 2, variant, offload="group") == 800


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wan2.2-t2v-a14b", "wan2.1-i2v-14b-480p", "wan2.1-vace-1.3b"])
def test_the_estimate_counts_what_a_transformer_holds_in_fp8(name: str) -> None:
    variant = VARIANTS[name]
    transformer = transformer_of(variant).to(torch.bfloat16)
    elements = {"transformer": count(transformer), "text_encoder": variant.text_encoder_parameters}
    quantise(transformer)  # on the meta device, which counts for nothing
    tensors = (*transformer.parameters(), *transformer.buffers())
    held = sum(tensor.nbytes for tensor in tensors) + 2 * elements["text_encoder"]
    assert resident_weights(elements, 2, variant, fp8=True) == pytest.approx(held, rel=1e-3)


def test_the_last_block_in_full_precision_counts_where_little_is_loaded_after_it() -> None:
    variant = VARIANTS["wan2.1-t2v-14b"]
    parts, text = {"transformer": parameters(variant)["transformer"]}, {"text_encoder": 10**10}
    alone = resident_weights(parts, 2, variant, fp8=True)
    held = resident_weights(parts | text, 2, variant, fp8=True) - 2 * 10**10
    assert resident_weights(parts | {"vae": 1000}, 2, variant, fp8=True) == alone
    weights = 8 * 5120**2 + 2 * 5120 * 13824  # of a block; and two copies of its largest in float32
    assert alone - held == pytest.approx(weights + 2 * 4 * 5120 * 13824, rel=1e-3)


def test_an_unknown_option_is_refused_before_weights_are_read(checkpoint: Path) -> None:
    settings = EngineSettings(small("wan2.1-t2v-1.3b"), checkpoint, options={"fp9": True})
    with pytest.raises(TuningError, match="fp9"):
        device_memory.check_weights(checkpoint, settings, CPU, torch.float32)


def test_a_container_s_limit_is_a_limit(tmp_path: Path) -> None:
    assert device_memory.container_headroom(tmp_path, 77) == 77
    for name, content in {
        "memory.max": "1000\n",
        "memory.current": "600\n",
        "memory.stat": "anon 500\ninactive_file 50\nactive_file 50\n",
    }.items():
        (tmp_path / name).write_text(content)
    assert device_memory.container_headroom(tmp_path, 77) == 450
    (tmp_path / "memory.max").write_text("max\n")
    assert device_memory.container_headroom(tmp_path, 77) == 77


def test_free_memory_is_a_part_of_all_memory() -> None:
    assert 0 < device_memory.free_bytes(CPU) < psutil.virtual_memory().total


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_memory_that_torch_caches_counts_as_free() -> None:
    device = torch.device("cuda")
    before = device_memory.free_bytes(device)
    held = torch.empty(2**28, dtype=torch.uint8, device=device)
    assert device_memory.free_bytes(device) == pytest.approx(before - 2**28, abs=2**24)
    del held
    assert device_memory.free_bytes(device) == pytest.approx(before, abs=2**24)


def test_memory_is_counted_without_torch() -> None:
    code = "import sys, models.memory.estimate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
