"""The whole forward pass with fused operations, and the choice of them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.kernels.choice import OperationsWidth, choose_operations, first_difference
from models.kernels.eager import EAGER, EagerOperations
from models.kernels.fused import FUSED
from models.kernels.operations import Operations
from models.parallel.plan import ParallelPlan
from models.speed.dummy_forward import DummyShape, dummy_forward
from models.speed.fp8 import closeness, quantise
from models.transformer.block import blocks_in_order, uncompiled_parts
from models.transformer.denoiser import Denoiser
from models.transformer.projections import join_projections
from models.variants import Variant

from ..checkpoints import small
from ..checkpoints import transformer as small_transformer
from .interpreter import Interpreter

CPU = torch.device("cpu")
WIDTH = OperationsWidth(heads=2, head_dim=24, ffn_dim=96)
SHAPE = DummyShape(frames=2, height=4, width=6)


def velocity(
    name: str, operations: Operations, shape: DummyShape, joined: bool, fp8: bool, dtype: torch.dtype
) -> Tensor:
    """Predict a velocity with a model that is the same at every call."""
    torch.manual_seed(0)
    variant: Variant = small(name)
    model = small_transformer(variant).to(dtype).requires_grad_(False)
    if joined:
        join_projections(blocks_in_order(model)[0])
    if fp8:
        quantise(model, operations)
    plan = ParallelPlan() if joined else ParallelPlan(ulysses=2)  # which has the three one after the other
    denoiser = Denoiser(model, block_parts=uncompiled_parts(plan, operations))
    return dummy_forward(denoiser, variant, model.config, shape)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "joined"),
    [
        ("wan2.1-t2v-1.3b", SHAPE, False),
        ("wan2.2-ti2v-5b", replace(SHAPE, prompts=2, timestep_per_frame=True), True),
        ("wan2.1-vace-1.3b", SHAPE, True),
    ],
)
def test_a_forward_pass_is_the_same_with_fused_operations(
    interpreted: Interpreter, name: str, shape: DummyShape, joined: bool
) -> None:
    arguments = shape, joined, False, torch.float32
    found = interpreted(velocity, name, FUSED, *arguments)
    torch.testing.assert_close(found, velocity(name, EAGER, *arguments), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_layers_in_fp8_take_what_the_fused_operations_quantised(interpreted: Interpreter) -> None:
    arguments = "wan2.1-t2v-1.3b", FUSED, SHAPE, True, True, torch.bfloat16
    found = interpreted(velocity, *arguments)
    expected = velocity(arguments[0], EAGER, *arguments[2:])
    assert closeness(found, expected).error < 0.01
    plain = velocity(arguments[0], EAGER, SHAPE, True, False, torch.bfloat16)
    assert closeness(found, plain).error > 0.01


class WrongGate(EagerOperations):
    """Operations that leave the gate out."""

    def residual(self, x: Tensor, update: Tensor, gate: Tensor | None = None) -> Tensor:
        return x + update


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_trial_passes_right_operations_and_names_wrong_ones(
    interpreted: Interpreter, dtype: torch.dtype
) -> None:
    assert interpreted(first_difference, FUSED, CPU, dtype, WIDTH, eight_bits=True) is None
    assert first_difference(WrongGate(), CPU, dtype, WIDTH, eight_bits=True) == "residual"


def test_a_device_without_cuda_uses_plain_torch() -> None:
    assert choose_operations(CPU, torch.float32, WIDTH).operations is EAGER


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels do run where CUDA is")
def test_kernels_that_do_not_run_are_not_used_and_the_log_says_why() -> None:
    choice = choose_operations(torch.device("cuda"), torch.bfloat16, WIDTH)
    assert choice.operations is EAGER
    assert "they do not run here: Torch not compiled with CUDA" in str(choice)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="compiles for a CUDA device")
def test_a_device_uses_the_fused_operations() -> None:
    eight_bits = torch.cuda.get_device_capability() >= (8, 9)
    choice = choose_operations(torch.device("cuda"), torch.bfloat16, WIDTH, eight_bits=eight_bits)
    assert choice.operations is FUSED, str(choice)
