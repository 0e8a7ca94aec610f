"""Parts of a model, read straight from their files: the bits of their libraries, in bounded memory."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel, WanVACETransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CLIPVisionModel, UMT5EncoderModel

from models.engine import EngineSettings
from models.errors import WeightsError
from models.loading import load_engine
from models.networks.autoencoder import WanAutoencoder
from models.networks.clip_vision import CLIPVision
from models.networks.transformer import WanTransformer
from models.networks.umt5 import UMT5Encoder
from models.speed import tuned_model as tuned
from models.variants import Variant
from models.weights.arrival import Arrival
from models.weights.carrier import Carrier
from models.weights.mapped_files import mapped
from models.weights.safetensors_header import stored_tensors
from models.weights.stored_module import StoredModule
from testbed.fake_device.device import FakeDevice
from testbed.fake_device.operation import Operation, storage_of, tensors

from .checkpoints import base_folders, small

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TRANSFORMER = ("transformer", WanTransformer, WanTransformer3DModel)
VACE = ("transformer", WanTransformer, WanVACETransformer3DModel)
VAE = ("vae", WanAutoencoder, AutoencoderKLWan)
TEXT = ("text_encoder", UMT5Encoder, UMT5EncoderModel)
CLIP = ("image_encoder", CLIPVision, CLIPVisionModel)
PARTS = [
    ("wan2.1-t2v-1.3b", TRANSFORMER, torch.bfloat16),
    ("wan2.1-i2v-14b-480p", TRANSFORMER, torch.bfloat16),
    ("wan2.1-fun-inp-1.3b", TRANSFORMER, torch.float32),
    ("wan2.1-flf2v-14b", TRANSFORMER, torch.float16),
    ("wan2.1-vace-1.3b", VACE, torch.bfloat16),
    ("wan2.2-i2v-a14b", TRANSFORMER, torch.bfloat16),
    ("wan2.2-ti2v-5b", TRANSFORMER, torch.bfloat16),
    ("wan2.1-t2v-1.3b", VAE, torch.float16),
    ("wan2.2-ti2v-5b", VAE, torch.bfloat16),
    *(("wan2.1-t2v-1.3b", TEXT, dtype) for dtype in DTYPES),  # keeps a layer in float32 beside float16
    ("wan2.1-i2v-14b-480p", CLIP, torch.float16),
]
"""Each kind of part, ours and its library's, the models that differ in it, and a dtype to load it in."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Variant], Path]:
    return base_folders(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def encoder(folders: Callable[[Variant], Path]) -> Path:
    """The folder of a text encoder."""
    return folders(small("wan2.1-t2v-1.3b")) / "text_encoder"


def same_bits(one: Any, other: Any) -> None:
    """Assert that two modules have the same parameters and tables, and are in the same state."""
    for found, expected in (
        (dict(one.named_parameters()), dict(other.named_parameters())),
        (tables(one), tables(other)),
    ):
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            assert (tensor.dtype, tensor.device) == (expected[name].dtype, expected[name].device), name
            assert torch.equal(tensor, expected[name]), name
    assert one.training is other.training is False
    assert not any(parameter.requires_grad for parameter in one.parameters())


def tables(module: Any) -> dict[str, Tensor]:
    """The buffers that are computed: all but the numbers from 0 to n of CLIP's library."""
    return {name: tensor for name, tensor in module.named_buffers() if "position_ids" not in name}


@pytest.mark.parametrize(("name", "part", "dtype"), PARTS)
def test_each_part_has_the_bits_and_dtypes_that_its_library_gives_it(
    folders: Callable[[Variant], Path], name: str, part: tuple[str, Any, Any], dtype: torch.dtype
) -> None:
    place, own, library = part
    folder = folders(small(name)) / place
    expected = library.from_pretrained(folder, torch_dtype=dtype, local_files_only=True)
    same_bits(StoredModule(own, folder).load(Carrier(CPU), dtype), expected.eval())


@pytest.mark.parametrize("kept", [{"shared"}, {"encoder.embed_tokens"}, {"shared", "encoder.embed_tokens"}])
def test_an_embedding_of_two_names_is_one_by_whichever_it_is_stored(
    encoder: Path, tmp_path: Path, kept: set[str]
) -> None:
    stored = load_file(encoder / "model.safetensors")
    embedding = stored.pop("shared.weight")
    save_file(stored | {f"{name}.weight": embedding.clone() for name in kept}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((encoder / "config.json").read_text())
    loaded = StoredModule(UMT5Encoder, tmp_path).load(Carrier(CPU), torch.float32)
    assert torch.equal(loaded.shared.weight, embedding)


def test_a_part_in_several_files_is_that_of_one(folders: Callable[[Variant], Path], tmp_path: Path) -> None:
    folder = folders(small("wan2.1-vace-1.3b")) / "transformer"
    whole = WanVACETransformer3DModel.from_pretrained(folder)
    whole.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    loaded = StoredModule(WanTransformer, tmp_path).load(Carrier(CPU), torch.bfloat16)
    same_bits(loaded, StoredModule(WanTransformer, folder).load(Carrier(CPU), torch.bfloat16))


FAULTS: list[tuple[Callable[[dict[str, Tensor]], object], str]] = [
    (
        lambda t: [t.pop(name) for name in list(t) if "layer_norm" in name],
        r"lacks 5 tensors of UMT5Encoder, such as encoder\.block\.0\.layer\.0\.layer_norm\.weight, "
        r"encoder\.block\.0\.layer\.1\.layer_norm\.weight, encoder\.block\.1\.layer\.0\.layer_norm\.weight\.",
    ),
    (lambda t: t.pop("shared.weight"), r"lacks 1 tensors of UMT5Encoder, such as shared\.weight\."),
    (
        lambda t: t.update({"voice.weight": torch.zeros(2), "decoder.x": torch.zeros(2)}),
        r"has 1 tensors that are none of UMT5Encoder, such as voice\.weight\.",
    ),
    (
        lambda t: t.update({"shared.weight": torch.zeros(3, 3)}),
        r"has 1 tensors in another shape than UMT5Encoder, such as shared\.weight\.",
    ),
]


@pytest.mark.parametrize(("fault", "sentence"), FAULTS)
def test_tensors_that_are_missing_or_foreign_are_named(
    encoder: Path, tmp_path: Path, fault: Callable[[dict[str, Tensor]], object], sentence: str
) -> None:
    stored = load_file(encoder / "model.safetensors")
    fault(stored)
    save_file(stored, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((encoder / "config.json").read_text())
    with pytest.raises(WeightsError, match=sentence) as caught:
        StoredModule(UMT5Encoder, tmp_path).load(Carrier(CPU), torch.float32)
    assert str(caught.value).startswith(str(tmp_path))


@pytest.mark.slow
def test_weights_that_wait_on_the_host_lie_in_their_file_alone(
    folders: Callable[[Variant], Path],
) -> None:
    folder = folders(small("wan2.1-vace-1.3b")) / "transformer"
    (file,) = folder.glob("*.safetensors")
    before = file.read_bytes()
    module = StoredModule(WanTransformer, folder)
    model = module.load(Carrier(CPU), torch.bfloat16, as_stored=True)
    assert all(lies_in(file, parameter) for parameter in model.parameters())
    cast = module.load(Carrier(CPU), torch.bfloat16)
    Arrival(model, torch.bfloat16, Carrier(CPU)).bring(model.parameters())
    same_bits(model, cast)
    whole = module.load(Carrier(CPU), torch.float32)
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.zero_()
    assert file.read_bytes() == before


def test_weights_in_another_dtype_than_their_files_are_cast_as_they_come_to_rest(
    folders: Callable[[Variant], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuned, "check_offload", lambda *_, **__: None)  # which would ask for a CUDA device
    variant = small("wan2.1-t2v-1.3b")

    def parameters_of(how: str) -> dict[str, Tensor]:
        settings = EngineSettings(variant, folders(variant), dtype="bfloat16", options={"offload": how})
        return dict(load_engine(settings).parts.denoiser.transformer.state_dict())

    expected = parameters_of("none")
    assert {tensor.dtype for tensor in expected.values()} == {torch.bfloat16, torch.float32}
    for how in ("model", "group"):
        found = parameters_of(how)
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            assert tensor.dtype == expected[name].dtype, name
            assert torch.equal(tensor, expected[name]), name


def lies_in(file: Path, tensor: Tensor) -> bool:
    """Whether a tensor's memory is the file's, mapped by the system."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(place, 16) for place in line.split()[0].split("-"))
        if first <= tensor.data_ptr() < last:
            return line.endswith(str(file))
    return False


@pytest.mark.parametrize("stored", [*DTYPES, torch.float8_e4m3fn, torch.float64])
def test_tensors_pass_through_windows_unharmed_several_at_once(stored: torch.dtype) -> None:
    torch.manual_seed(0)
    shapes: list[tuple[int, ...]] = [(), (0, 3), (1,), (7, 3), (16, 8), (5, 3, 1, 2, 2), (129, 31)]
    originals = [torch.randn(shape).to(stored) for shape in shapes * 5]
    carrier = Carrier(CPU, window_bytes=64)
    with ThreadPoolExecutor(6) as threads:
        for dtype in (stored, *DTYPES):
            carried = list(threads.map(carrier.through_windows, originals, repeat(dtype)))
            for tensor, copy in zip(originals, carried, strict=True):
                assert (copy.dtype, copy.shape) == (dtype, tensor.shape)
                assert torch.equal(copy.float(), tensor.to(dtype).float())
                assert copy.numel() == 0 or copy.data_ptr() != tensor.data_ptr()


class HostMemory(TorchDispatchMode):
    """Records the bytes of each piece of the host's memory that torch allocates."""

    def __init__(self) -> None:
        super().__init__()
        self.allocated: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        known = {storage_of(tensor) for tensor in tensors(tuple(args))}
        if isinstance(made, Tensor) and made.device == CPU and storage_of(made) not in known:
            self.allocated.append(made.untyped_storage().nbytes())
        return made


class Arrivals:
    """An observer that counts the bytes that the device gets from the host."""

    def __init__(self) -> None:
        self.bytes = 0

    def operated(self, operation: Operation) -> None:
        if any(tensor.is_cuda for tensor in (*operation.filled, *operation.made)):
            self.bytes += sum(tensor.nbytes for tensor in operation.read if not tensor.is_cuda)

    def waited(self, name: str) -> None:
        pass


def test_a_device_gets_each_byte_of_a_file_once_and_the_host_has_windows_alone(
    folders: Callable[[Variant], Path],
) -> None:
    (file,) = (folders(small("wan2.1-t2v-1.3b")) / "transformer").glob("*.safetensors")
    arrivals, host, window = Arrivals(), HostMemory(), 4096
    with mapped(stored_tensors(file), file) as files:
        weights = [files.tensor(stored) for stored in stored_tensors(file)]
    with FakeDevice() as device, device.observed_by(arrivals), host:
        carrier = Carrier(device.device, window_bytes=window)
        there = [carrier.carry(weight, torch.bfloat16) for weight in weights]
    assert all(tensor.is_cuda and tensor.dtype == torch.bfloat16 for tensor in there)
    assert arrivals.bytes == sum(weight.nbytes for weight in weights) > 50 * window
    assert host.allocated == [window] * len(host.allocated)
    assert 0 < len(host.allocated) < 10
