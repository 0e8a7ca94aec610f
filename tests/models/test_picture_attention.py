"""The VAE's attention by products beside torch's kernel, and the choice between them."""

import pytest
import torch

from models.vae.picture_attention import attend, attend_by_products, choose_attention
from testbed.fake_device.device import FakeDevice


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_products_attend_as_torchs_kernel_does(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    # parts of one product, as the layer has them, and scores far apart
    queries, keys, values = (torch.randn(3, 35, 3 * 40) * 3).to(dtype).chunk(3, dim=-1)
    exact = attend(queries.double(), keys.double(), values.double())
    found = attend_by_products(queries, keys, values)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact, atol=tolerance, rtol=tolerance)


def test_wide_heads_of_a_cuda_device_attend_by_products() -> None:
    assert choose_attention(torch.device("cpu"), torch.float32, 384) is attend
    with FakeDevice() as device:
        assert choose_attention(device.device, torch.bfloat16, 384) is attend_by_products
        assert choose_attention(device.device, torch.bfloat16, 256) is attend
