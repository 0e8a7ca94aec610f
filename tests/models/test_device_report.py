"""What the doctor is told of CUDA devices, on the fake one."""

import json
from unittest.mock import patch

import pytest
import torch

from models.attention.kernels import KERNELS
from models.speed.device_report import report
from serve_app.doctor.devices import DeviceReport, of_devices
from testbed.fake_device.device import FakeDevice


class _H200:
    name = "NVIDIA H200"
    total_memory = 140 * 10**9
    major, minor = 9, 0


@pytest.mark.parametrize("is_full", [False, True])
def test_devices_and_kernels_are_told_also_where_another_process_fills_the_device(is_full: bool) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA error: out of memory\nCUDA kernel errors might be reported later.")

    with (
        FakeDevice(),
        patch.multiple(torch.cuda, device_count=lambda: 2, get_device_properties=lambda _: _H200),
        patch.object(torch, "zeros", full if is_full else torch.zeros),
    ):
        told = DeviceReport.of(json.loads(json.dumps(report())))
    assert [device.memory_bytes for device in told.devices] == [_H200.total_memory] * 2
    assert told.attention.keys() == KERNELS.keys()
    assert told.attention["cudnn"] == ("does not run here: CUDA error: out of memory" if is_full else None)
    parts = [finding.part for finding in of_devices(told, ["NVIDIA H200, 570.124.06"] * 2)]
    assert parts == ["torch", "GPUs", "driver", "attention"]
