"""Linear layers in 8-bit floats: their results, the layers that become one, and the refusals.

The multiplication itself is torch's, which has it for CPUs too.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import nn

from models.engine import EngineSettings
from models.errors import TuningError
from models.kernels.eager import EAGER
from models.kernels.operations import FP8, LARGEST
from models.loading import load_engine
from models.parallel.plan import ParallelPlan
from models.speed import tuned_model as tuned
from models.speed.compiled import compiled_parts
from models.speed.dummy_forward import DummyShape, dummy_forward
from models.speed.fp8 import Fp8Linear, check_fp8, closeness, quantise
from models.speed.quantised_blocks import QuantisedAfterUse
from models.transformer.block import blocks_in_order
from models.transformer.denoiser import Denoiser
from models.variants import VARIANTS
from models.weights.arrival import Arrival
from models.weights.carrier import Carrier

from .checkpoints import save_checkpoint, small
from .checkpoints import transformer as small_transformer
from .conftest import REQUEST, Model, build_model
from .test_checkpoints import defaults

CUDA = torch.device("cuda")


def dequantised(rows: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return rows.float() * scale


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_a_layer_multiplies_its_rows_and_its_inputs_as_they_were_rounded(
    dtype: torch.dtype, rounding: float, bias: bool
) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 48, bias=bias).to(dtype).requires_grad_(False)
    layer = Fp8Linear(linear)
    x = torch.randn(2, 3, 5, 64, dtype=dtype)
    x[0, 0, 0] *= 1000.0  # one loud token, and one silent
    x[0, 0, 1] = 0.0
    weight = dequantised(layer.weight, layer.scale.t())
    expected = dequantised(*EAGER.scaled_rows(x.flatten(0, -2))).view(x.shape) @ weight.t()
    if linear.bias is not None:
        expected = expected + linear.bias.float()
    made = layer(x)
    assert (made.shape, made.dtype) == ((2, 3, 5, 48), dtype)
    torch.testing.assert_close(made.float(), expected, atol=rounding, rtol=rounding)


def test_a_layer_is_near_the_one_it_replaces() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(256, 256).requires_grad_(False)
    linear.weight[3] *= 500.0  # a scale for each row: the others keep their precision
    x = torch.randn(64, 256)
    found = closeness(Fp8Linear(linear)(x)[:, :3], linear(x)[:, :3])
    assert found.error < 0.05
    assert found.cosine > 0.998


def test_every_row_uses_the_whole_range() -> None:
    rows = torch.tensor([[1e-3, -2e-3], [3e4, 1.0], [0.0, 0.0]])
    quantised, scale = EAGER.scaled_rows(rows)
    assert quantised.dtype == FP8
    assert quantised.float().abs().amax(1).tolist() == [LARGEST, LARGEST, 0.0]
    assert scale.shape == (3, 1)
    torch.testing.assert_close(dequantised(quantised, scale)[:2, 1], rows[:2, 1], rtol=0.07, atol=0)


@pytest.mark.parametrize("name", ["wan2.1-t2v-1.3b", "wan2.1-i2v-14b-480p", "wan2.1-vace-1.3b"])
def test_the_large_layers_of_every_block_are_replaced_and_no_others(name: str) -> None:
    model = eights(small_transformer(small(name)))
    before = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    quantise(model)
    for path, module in before.items():
        now = model.get_submodule(path)
        large = "blocks." in path and not any(part in path for part in ("add_", "proj_in", "proj_out"))
        assert isinstance(now, Fp8Linear) == large, path
        assert (now.in_features, now.out_features) == (module.in_features, module.out_features)
    blocks = len(model.blocks) + len(getattr(model, "vace_blocks", []))
    assert sum(isinstance(module, Fp8Linear) for module in model.modules()) == 10 * blocks


def eights(model: Any) -> Any:
    """A model whose widths are multiples of 16: two heads of 24 channels, and a feed-forward of 96."""
    assert model.blocks[0].attn1.to_q.in_features % 16 == 0
    return model.requires_grad_(False)


def test_a_quantised_model_predicts_nearly_the_same_velocity() -> None:
    variant = small("wan2.1-t2v-1.3b")
    model = eights(small_transformer(variant))
    shape = DummyShape(frames=2, height=8, width=8)
    expected = dummy_forward(Denoiser(model), variant, model.config, shape)
    assert closeness(expected, dummy_forward(Denoiser(model), variant, model.config, shape)).error == 0.0
    weights = sum(parameter.nbytes for parameter in model.blocks.parameters())
    quantise(model)
    found = closeness(dummy_forward(Denoiser(model), variant, model.config, shape), expected)
    assert 0.001 < found.error < 0.1
    assert found.cosine > 0.995
    layers = [module for module in model.blocks.modules() if isinstance(module, Fp8Linear)]
    kept = sum(parameter.nbytes for parameter in model.blocks.parameters())
    assert kept + sum(layer.weight.nbytes for layer in layers) < 0.4 * weights  # of float32


def test_a_quantised_model_makes_a_video_near_that_of_the_model() -> None:
    model: Model = build_model(expand_timesteps=False)
    expected = model.latents(REQUEST)
    quantise(model.pipeline.transformer.requires_grad_(False))
    assert closeness(model.latents(REQUEST), expected).error < 0.1


def test_a_model_is_loaded_in_fp8_and_says_how_near_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tuned, "check_fp8", lambda *_: None)  # which would ask for a CUDA device
    variant = small("wan2.2-t2v-a14b")
    save_checkpoint(variant, tmp_path / "weights")
    weights = tmp_path / "weights"
    settings = EngineSettings(variant, weights, dtype="bfloat16", options={"fp8": True})
    with caplog.at_level("INFO", "models.speed.tuned_model"):
        engine = load_engine(settings)
    experts = ("transformer", "transformer_2")
    for expert, expert_folder in zip(engine.parts.denoisers, experts, strict=True):
        assert isinstance(expert.transformer.blocks[1].ffn.net[2], Fp8Linear)
        folder = weights / expert_folder
        plain = WanTransformer3DModel.from_pretrained(folder, torch_dtype=torch.bfloat16)
        quantise(plain.requires_grad_(False))  # the files are in float32: cast first, then quantised
        for path in ("blocks.1.ffn.net.2", "blocks.0.attn2.to_q", "blocks.1.attn1.to_out.0"):
            layer, expected = (model.get_submodule(path) for model in (expert.transformer, plain))
            assert torch.equal(layer.weight.float(), expected.weight.float())
            assert torch.equal(layer.scale, expected.scale)
    said = [record.getMessage() for record in caplog.records if "fp8" in record.getMessage()]
    assert len(said) == 2
    assert all(re.search(r"cosine 0\.99\d+, relative error 0\.0[1-9]", line) for line in said), said
    latents = Model(engine, engine.parts.text, None).latents(defaults(variant.name, "t2v"))
    assert latents.isfinite().all()


@pytest.mark.parametrize("name", ["wan2.1-i2v-14b-480p", "wan2.1-vace-1.3b"])
def test_blocks_are_quantised_one_by_one_after_their_use(name: str) -> None:
    variant = small(name)
    shape = DummyShape(frames=2, height=8, width=8)
    whole, model = eights(small_transformer(variant)), eights(small_transformer(variant))
    model.load_state_dict(whole.state_dict())
    blocks = blocks_in_order(model)[0]
    used = []

    class Watched(QuantisedAfterUse):
        def _quantised(self, blocks: Any) -> Any:
            for block in super()._quantised(blocks):
                used.append([isinstance(other.ffn.net[2], Fp8Linear) for other in blocks])
                yield block

    passing = Denoiser(model, weights=Watched(Arrival(model, torch.float32, Carrier(torch.device("cpu")))))
    expected = dummy_forward(Denoiser(whole), variant, whole.config, shape)
    made = dummy_forward(passing, variant, model.config, shape, Denoiser(model))
    torch.testing.assert_close(made, expected, atol=0, rtol=0)
    assert used == [[other < number for other in range(len(blocks))] for number in range(len(blocks))]
    quantise(whole)
    after = [dummy_forward(Denoiser(each), variant, each.config, shape) for each in (whole, model)]
    torch.testing.assert_close(after[0], after[1], atol=0, rtol=0)


@pytest.mark.slow
def test_layers_in_fp8_compile_in_one_piece() -> None:
    variant = small("wan2.1-t2v-1.3b")
    model = eights(small_transformer(variant))
    quantise(model)
    shape = DummyShape(frames=2, height=8, width=8)
    expected = dummy_forward(Denoiser(model), variant, model.config, shape)
    compiled = Denoiser(model, block_parts=compiled_parts(ParallelPlan(), "eager"))
    made = dummy_forward(compiled, variant, model.config, shape)
    assert closeness(made, expected).error < 0.02  # a value between two of 8 bits may go either way


def test_sizes_that_cannot_be_multiplied_are_refused() -> None:
    for sizes in ((24, 48), (48, 40)):
        with pytest.raises(TuningError, match=f"a layer of {sizes[0]} by {sizes[1]} channels"):
            Fp8Linear(nn.Linear(*sizes))


@pytest.mark.parametrize(
    ("capability", "dtype", "said"),
    [
        ((8, 6), torch.bfloat16, "its compute capability is 8.6"),
        ((9, 0), torch.float32, "fp8 needs dtype bfloat16, not float32"),
        ((8, 9), torch.float16, "fp8 needs dtype bfloat16, not float16"),
    ],
)
def test_a_device_or_precision_without_fp8_is_refused(
    monkeypatch: pytest.MonkeyPatch, capability: Any, dtype: torch.dtype, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    with pytest.raises(TuningError, match=said):
        check_fp8(CUDA, dtype)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    check_fp8(CUDA, torch.bfloat16)


def test_closeness_tells_direction_from_length() -> None:
    one = torch.randn(2, 3)
    assert closeness(2 * one, one).cosine == pytest.approx(1.0)
    assert closeness(2 * one, one).error == pytest.approx(1.0)
    assert closeness(-one, one).cosine == pytest.approx(-1.0)


def test_every_variant_can_be_tried() -> None:
    for name in ("wan2.1-flf2v-14b", "wan2.1-vace-1.3b", "wan2.2-ti2v-5b", "wan2.2-i2v-a14b"):
        variant = small(name)
        model = small_transformer(variant)
        for shape in (
            DummyShape(2, 4, 4),
            DummyShape(2, 4, 4, prompts=2, timestep_per_frame=variant.expand_timesteps),
        ):
            made = dummy_forward(Denoiser(model), variant, model.config, shape)
            assert made.shape == (shape.prompts, VARIANTS[name].latent_channels, 2, 4, 4)
            assert made.isfinite().all()


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9),
    reason="multiplies 8-bit floats on a CUDA device",
)
def test_a_device_multiplies_as_a_cpu_does() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(256, 512).bfloat16().requires_grad_(False)
    x = torch.randn(2, 40, 256, dtype=torch.bfloat16)
    expected = Fp8Linear(linear)(x)
    made = Fp8Linear(linear.cuda())(x.cuda()).cpu()
    assert closeness(made, expected).error < 0.01
