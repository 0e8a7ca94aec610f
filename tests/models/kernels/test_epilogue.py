"""GELU as the epilogue of a product: where it is used, and the numbers that rule it out.

Off CUDA torch's epilogue is the exact GELU, so near the tanh approximation, in 16 bits, as it is on CUDA.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.kernels import epilogue
from models.kernels.eager import EAGER
from models.kernels.epilogue import EPILOGUE, epilogue_serves
from models.speed.fp8 import Fp8Linear
from testbed.fake_device.device import FakeDevice
from testbed.fake_device.traffic import Traffic

CPU = torch.device("cpu")


def layer(dtype: torch.dtype) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(32, 48).to(dtype).requires_grad_(False)


def test_off_cuda_gelu_follows_the_product_to_the_bits_of_plain_torch() -> None:
    linear, x = layer(torch.bfloat16), torch.randn(2, 3, 32).bfloat16()
    plain = F.gelu(linear(x), approximate="tanh")
    for kernels in (EAGER, EPILOGUE):
        found = kernels.linear_gelu(linear, x)
        assert isinstance(found, Tensor) and torch.equal(found, plain)


def test_a_plain_layer_and_gelu_are_one_launch_and_others_are_two() -> None:
    with FakeDevice() as device, torch.inference_mode():
        plain = layer(torch.bfloat16).to(device.device)
        x = torch.empty(2, 1, 3, 32, dtype=torch.bfloat16, device=device.device)

        def launches(linear: nn.Module, **options: Any) -> list[str]:
            traffic = Traffic()
            with device.observed_by(traffic):
                made = EPILOGUE.linear_gelu(linear, x, **options)
            assert options or (isinstance(made, Tensor) and made.shape == (2, 1, 3, 48))
            return [moved.name for moved in traffic.launches]

        assert launches(plain) == ["aten._addmm_activation"]
        assert (
            launches(nn.Sequential(plain))[-1] == "aten.gelu"
        )  # what stands beside a layer has a part in it
        assert launches(plain, eight_bits=True)[-1] == "wan_serve.scaled_rows"
        assert "aten._addmm_activation" not in launches(Fp8Linear(plain))


def test_it_serves_on_hopper_in_16_bits_where_its_numbers_are_near(monkeypatch: pytest.MonkeyPatch) -> None:
    capability = (9, 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert epilogue_serves(CPU, torch.bfloat16, 32, 48)
    assert not epilogue_serves(CPU, torch.float32, 32, 48)
    product = epilogue.product_with_gelu
    for found in (lambda *given: product(*given) * 1.01, lambda *given: product(*given) / 0):
        with monkeypatch.context() as patch:
            patch.setattr(epilogue, "product_with_gelu", found)
            assert not epilogue_serves(CPU, torch.bfloat16, 32, 48)
    capability = (12, 0)
    assert not epilogue_serves(CPU, torch.bfloat16, 32, 48)


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9,
    reason="needs a Hopper device",
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_devices_epilogue_is_as_near_the_exact_numbers_as_two_kernels(dtype: torch.dtype) -> None:
    assert epilogue_serves(torch.device("cuda"), dtype, 5120, 13824)
