"""Weights that wait in their files are scaled, cast and joined with LoRAs on the device, each once."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.engine import EngineSettings, FusedLora
from models.loading import load_engine
from models.lora.adapters import Adapters
from models.lora.file import read_lora
from models.lora.merging import fuse
from models.networks.transformer import WanTransformer
from models.parallel.mesh import Mesh
from models.speed import tuned_model as tuned
from models.speed.fp8 import quantise
from models.speed.tuned_model import TunedModel
from models.transformer.projections import NAMES
from models.tuning import Tuning
from models.weights.arrival import Arrival
from models.weights.carrier import Carrier
from models.weights.single_file import SingleFile
from models.weights.stored_module import StoredModule
from testbed.fake_device.device import FakeDevice

from .checkpoints import save_checkpoint, small
from .lora_files import random_products, save_products
from .test_lora import ONE, transformers
from .test_single_file import scaled_by_rows, wan_names
from .test_stored_module import CPU, Arrivals, HostMemory, lies_in

FILE = "transformer/diffusion_pytorch_model.safetensors"
SCALED = "scaled.safetensors"
LORAS = {"a": 0.7, "b": -0.4}
"""Strengths of the LoRAs, by name."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its transformer in scaled 8-bit floats, too, and random LoRAs."""
    root = tmp_path_factory.mktemp("arrival")
    save_checkpoint(small(ONE), root / ONE)
    save_file(scaled_by_rows(wan_names(load_file(root / ONE / FILE))), root / SCALED)
    model = StoredModule(WanTransformer, root / ONE / "transformer").load(Carrier(CPU), torch.bfloat16)
    for seed, name in enumerate(LORAS):
        save_products(root / f"{name}.safetensors", "diffusers", random_products(model, seed))
    return root


@pytest.fixture
def no_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load with settings that would ask for a CUDA device."""
    for check in ("check_fp8", "check_offload"):
        monkeypatch.setattr(tuned, check, lambda *_, **__: None)


def load(root: Path, file: Path | None, **options: object) -> Any:
    """Return the transformer with both LoRAs in it."""
    settings = EngineSettings(
        small(ONE),
        root / ONE,
        dtype="bfloat16",
        transformer=file,
        fused_loras=tuple(
            FusedLora(root / f"{name}.safetensors", strength) for name, strength in LORAS.items()
        ),
        options=options,
    )
    (model,) = transformers(load_engine(settings))
    return model


@pytest.mark.parametrize(
    ("stored", "options"),
    [
        (None, {"fp8": True}),
        (None, {"offload": "model"}),
        (SCALED, {"fp8": True}),
        (SCALED, {"offload": "group"}),
    ],
)
def test_weights_lie_in_their_files_until_they_arrive_with_the_bits_of_those_that_do_not_wait(
    root: Path,
    no_checks: None,
    monkeypatch: pytest.MonkeyPatch,
    stored: str | None,
    options: dict[str, object],
) -> None:
    file = None if stored is None else root / stored
    expected, denoiser = load(root, file), TunedModel.denoiser
    seen: list[bool] = []

    def watched(model: TunedModel, arrival: Arrival, **settings: Any) -> Any:
        seen.extend(lies_in(file or root / ONE / FILE, value) for value in arrival.model.parameters())
        return denoiser(model, arrival, **settings)

    monkeypatch.setattr(TunedModel, "denoiser", watched)
    found = load(root, file, **options).state_dict()
    assert seen and all(seen)
    if "fp8" in options:
        quantise(expected)
    assert found.keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name].float(), tensor.float()), name


def test_the_host_has_windows_alone_while_loras_are_joined_with_weights_that_arrive(root: Path) -> None:
    window, variant = 4096, small(ONE)
    model = StoredModule(WanTransformer, root / ONE / "transformer").empty()
    file = SingleFile(root / SCALED)
    scales = file.fill(model, variant, Carrier(CPU), torch.bfloat16, as_stored=True)
    stored = sum(parameter.nbytes for parameter in model.parameters())
    arrivals, host = Arrivals(), HostMemory()
    there: list[tuple[str, torch.dtype]] = []

    def seen(tensor: Tensor) -> Tensor:
        there.append((tensor.device.type, tensor.dtype))
        return tensor

    with FakeDevice() as device, device.observed_by(arrivals), host:
        arrival = Arrival(model, torch.bfloat16, Carrier(device.device, window_bytes=window), scales)
        fuse(read_lora(root / "a.safetensors", Adapters(arrival).shapes), LORAS["a"], arrival)
        for name, _ in model.named_parameters():
            arrival.add_change(name, seen)
        before = len(host.allocated)
        arrival.bring(model.parameters())
    assert len(there) == len(list(model.parameters()))
    assert {device for device, _ in there} == {"cuda"}
    assert {dtype for _, dtype in there} == {torch.bfloat16, torch.float32}  # some are kept in float32
    assert host.allocated[before:] == []
    assert stored < arrivals.bytes < 1.5 * stored


@pytest.mark.parametrize("options", [{"offload": "model"}, {"offload": "group"}, {"offload": "experts"}])
def test_projections_are_joined_where_they_come_to_rest(
    root: Path, no_checks: None, options: dict[str, object]
) -> None:
    model = StoredModule(WanTransformer, root / ONE / "transformer")
    waiting = model.load(Carrier(CPU), torch.bfloat16, as_stored=True)
    tuned_model = TunedModel(Tuning.from_options(options), small(ONE), CPU, torch.bfloat16, Mesh())
    host = HostMemory()
    with host:
        tuned_model.denoiser(Arrival(waiting, torch.bfloat16, Carrier(CPU)))
    blocks: Any = waiting.blocks
    joined = {block.attn1.to_q.joined.weight for block in blocks}
    assert all(weight.shape == (144, 48) and weight.dtype == torch.bfloat16 for weight in joined)
    assert {weight.nbytes for weight in joined}.isdisjoint(host.allocated)
    cast = model.load(Carrier(CPU), torch.bfloat16)
    for block, expected in zip(blocks, cast.blocks, strict=True):
        for name in NAMES:
            assert torch.equal(getattr(block.attn1, name).weight, getattr(expected.attn1, name).weight)
