"""Matrix products of a 14B's block in bfloat16 and in 8 bits, quantising, and a sustained product."""

import time
from functools import partial

import torch
from torch import nn

from bench.gpu_blocks.bench import Bench
from models.errors import TuningError
from models.kernels.choice import OperationsWidth, choose_operations
from models.kernels.eager import EAGER
from models.kernels.operations import Operations
from models.speed.fp8 import Fp8Linear, check_fp8

_SUSTAINED_S = 2.0


def measure(bench: Bench) -> None:
    """Measure each shape of product, then one long enough for the power limit to be seen."""
    dim, ffn_dim, tokens = (64, 128, 128) if bench.tiny else (5120, 13824, 32760)
    with torch.inference_mode():
        for inputs, outputs in ((dim, dim), (dim, 3 * dim), (dim, ffn_dim), (ffn_dim, dim)):
            rows = torch.randn(tokens, inputs, device=bench.device, dtype=bench.dtype)
            layer = nn.Linear(inputs, outputs, device=bench.device, dtype=bench.dtype)
            operations = 2 * tokens * inputs * outputs
            _rate(bench, f"{inputs} to {outputs}", bench.seconds(lambda: layer(rows)), operations)  # noqa: B023
            _in_8_bits(bench, layer, rows, operations)
        _sustained(bench, 256 if bench.tiny else 8192)


def _in_8_bits(bench: Bench, layer: nn.Linear, rows: torch.Tensor, operations: int) -> None:
    name = f"{layer.in_features} to {layer.out_features} in 8 bits"
    try:
        check_fp8(bench.device, bench.dtype)
    except TuningError as error:
        bench.found("note", name, note=str(error))
        return
    width = OperationsWidth(heads=1, head_dim=layer.in_features, ffn_dim=layer.in_features)
    choice = choose_operations(bench.device, bench.dtype, width, eight_bits=True)
    forms: dict[str, Operations] = {"eagerly": EAGER}
    if choice.ruled_out is None:
        forms["by a fused kernel"] = choice.operations
    else:
        bench.found("note", f"{name}, quantised by a fused kernel", note=choice.ruled_out)
    for how, quantising in forms.items():
        seconds = bench.seconds(partial(Fp8Linear(layer, quantising), rows))
        _rate(bench, f"{name}, quantised {how}", seconds, operations)


def _sustained(bench: Bench, size: int) -> None:
    left, right = torch.randn(2, size, size, device=bench.device, dtype=bench.dtype)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < (_SUSTAINED_S / 20 if bench.tiny else _SUSTAINED_S):
        for _ in range(8):
            left @ right
        bench.wait()
        count += 8
    seconds = (time.perf_counter() - began) / count
    _rate(bench, f"sustained, {size} square", seconds, 2 * size**3)


def _rate(bench: Bench, name: str, seconds: float, operations: int) -> None:
    bench.found("figure", name, seconds * 1e3, "ms", note=f"{operations / seconds / 1e12:.3g} TFLOP/s")
