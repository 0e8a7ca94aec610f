"""The fake CUDA device: what it takes, what it refuses, and what its observers count."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from testbed.fake_device.device import FakeDevice
from testbed.fake_device.live_set import LiveSet
from testbed.fake_device.traffic import Moved, Traffic

MB = 2**20


@torch.library.custom_op("fake_device_test::scaled_into", mutates_args=("out",))
def scaled_into(x: Tensor, scale: Tensor, out: Tensor) -> None:
    out.copy_(x * scale)


@torch.library.custom_op("fake_device_test::normed", mutates_args=())
def normed(x: Tensor) -> Tensor:
    return F.normalize(x)


@normed.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@pytest.fixture
def device() -> Iterator[FakeDevice]:
    with FakeDevice() as device:
        yield device


def megabytes(device: FakeDevice, count: int = 1) -> Tensor:
    return torch.empty(count, MB // 2, dtype=torch.bfloat16, device=device.device)


def counted(device: FakeDevice, work: Callable[[], object]) -> Traffic:
    traffic = Traffic()
    with device.observed_by(traffic), torch.inference_mode():
        work()
    return traffic


def moved(device: FakeDevice, work: Callable[[], object]) -> list[tuple[str, int, int]]:
    """Return each launch's name, and the MB that it reads and writes."""
    launches = counted(device, work).launches
    return [(launch.name, launch.read_bytes // MB, launch.written_bytes // MB) for launch in launches]


def test_the_host_computes_while_the_device_knows_shapes_only(device: FakeDevice) -> None:
    assert torch.arange(4).sum().item() == 6
    there = torch.ones(2, 3, device=device.device) + torch.ones(2, 3).to(device.device)
    assert there.is_cuda
    assert there.shape == (2, 3)
    assert there.cpu().numpy().tolist() == [[0.0] * 3] * 2


def test_a_module_is_moved_to_the_device_and_on_it(device: FakeDevice) -> None:
    layer = torch.nn.Linear(2, 2).to(device.device)
    layer(torch.ones(1, 2, device=device.device))
    assert layer.to(device.device, torch.bfloat16).weight.dtype == torch.bfloat16
    assert layer.weight.is_cuda


def test_tensors_of_host_and_device_do_not_meet(device: FakeDevice) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(2, 3) + torch.ones(2, 3, device=device.device)


def test_what_reads_and_writes_counts_once_each(device: FakeDevice) -> None:
    x = megabytes(device, 4)
    assert moved(device, lambda: x + x) == [("aten.add", 4, 4)]
    assert moved(device, lambda: x.add_(x[:1])) == [("aten.add_", 5, 4)]
    assert moved(device, lambda: x.copy_(x[:1].expand(4, -1))) == [("aten.copy_", 1, 4)]
    assert moved(device, lambda: x.float()) == [("aten._to_copy", 4, 8)]
    assert moved(device, lambda: torch.zeros_like(x)) == [("aten.zeros_like", 0, 4)]


def test_views_allocations_and_what_changes_nothing_are_free(device: FakeDevice) -> None:
    x = megabytes(device, 4)
    free = (
        lambda: x.unflatten(1, (2, -1)).transpose(0, 1)[1:],
        lambda: x.to(torch.bfloat16).contiguous(),
        lambda: F.dropout(x, 0.1, training=False),
        lambda: torch.empty_like(x),
    )
    assert [moved(device, work) for work in free] == [[]] * 4


def test_an_operation_of_any_library_counts_as_one_launch(device: FakeDevice) -> None:
    x = megabytes(device, 4)
    assert moved(device, lambda: normed(x)) == [("fake_device_test.normed", 4, 4)]
    out = torch.empty_like(x)
    assert moved(device, lambda: scaled_into(x, x[:1], out)) == [("fake_device_test.scaled_into", 5, 4)]


def test_products_have_their_operations_and_the_name_of_their_layer(device: FakeDevice) -> None:
    with device.device:
        layer = torch.nn.Sequential(torch.nn.Linear(64, 128))
        x = torch.empty(2, 10, 64)
    traffic = Traffic(layer)
    with device.observed_by(traffic), torch.inference_mode():
        layer(x)
        F.scaled_dot_product_attention(x, x, x)
    product, attention = traffic.launches
    assert (product.kind, product.flops, product.weight) == ("product", 2 * 20 * 64 * 128, "0.bias")
    assert (attention.kind, attention.flops) == ("attention", 4 * 2 * 10 * 10 * 64)


def test_a_convolution_counts_its_bias_and_an_input_in_another_layout_besides(device: FakeDevice) -> None:
    pictures = torch.empty(1, 32, 128, 128, device=device.device)  # 2 MB
    weight = torch.empty(64, 32, 3, 3, device=device.device)
    weight = weight.contiguous(memory_format=torch.channels_last)
    launches: list[Moved] = counted(
        device, lambda: F.conv2d(pictures, weight, weight[:, 0, 0, 0], padding=1)
    ).launches
    assert [(launch.name, launch.bytes // MB) for launch in launches] == [
        ("layout of aten.conv2d", 4),
        ("bias of aten.conv2d", 8),
        ("aten.conv2d", 6),
    ]
    assert launches[-1].flops == 2 * 64 * 128 * 128 * 32 * 9


def test_whatever_the_host_waits_in_is_seen(device: FakeDevice) -> None:
    x, host = megabytes(device), torch.empty(1, MB // 2, dtype=torch.bfloat16)
    copy = "a copy between host and device"
    for work, waits in (
        (lambda: x.cpu(), [copy]),
        (lambda: x.copy_(host), [copy]),
        (lambda: host.copy_(x), [copy]),
        (lambda: host.to(device.device), [copy]),
        (lambda: torch.tensor([1.0, 2.0], device=device.device), [copy]),
        (lambda: x.sum().item(), ["aten._local_scalar_dense"]),
        (lambda: bool((x > 0).all()), ["aten.is_nonzero"]),
        (lambda: torch.equal(x, x), ["aten.equal"]),
        (lambda: torch.cuda.synchronize(device.device), ["torch.cuda.synchronize"]),
        (lambda: torch.cuda.Event().synchronize(), ["torch.cuda.Event.synchronize"]),
        (lambda: x.copy_(host.pin_memory(), non_blocking=True), []),
        (lambda: x.fill_(0.5).mul_(2.0), []),
    ):
        assert counted(device, work).waits == waits


def test_a_result_of_unknown_length_is_refused(device: FakeDevice) -> None:
    traffic = Traffic()
    with device.observed_by(traffic), pytest.raises(Exception, match="nonzero"):
        megabytes(device).nonzero()


def test_the_live_set_is_what_was_made_and_not_freed(device: FakeDevice) -> None:
    live = LiveSet()
    with device.observed_by(live):
        x = megabytes(device, 4)
        row = x[0]
        y = x + 1
        del x
        assert (live.bytes, live.peak) == (8 * MB, 8 * MB)  # a view keeps its storage
        del row
        assert live.bytes == 4 * MB
        y = y * 2
        assert (live.bytes, live.peak) == (4 * MB, 8 * MB)
        live.forget_peak()
        assert live.peak == 4 * MB
        del y
    assert live.bytes == 0
