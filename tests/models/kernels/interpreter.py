"""Triton's interpreter, which runs kernels on a CPU, in a process of its own.

Triton decides when it is imported whether it compiles or interprets, for the whole process: so the tests'
own process, in which torch.compile may need the compiler, never sees ``TRITON_INTERPRET``.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch

Interpreter: TypeAlias = Callable[..., Any]
"""Called as ``interpreter(function, *arguments, **options)``: runs it there and returns its result."""

_TORCH = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8e4nv": torch.float8_e4m3fn,
}


@contextmanager
def interpreter() -> Iterator[Interpreter]:
    """Start the process, and end it on exit."""
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawning, initializer=_begin) as pool:

        def run(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
            return pool.submit(_run, function, arguments, options).result()

        yield run


def _begin() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    torch.set_num_threads(1)
    import triton.runtime.interpreter as triton_interpreter

    # The interpreter's own conversion cuts digits off, and does not carry into the exponent; a device rounds.
    assert callable(triton_interpreter._convert_float)  # noqa: SLF001
    triton_interpreter._convert_float = _rounded  # noqa: SLF001
    # It multiplies the bits of bfloat16 as integers; a device multiplies the numbers, and adds in float32.
    builder = triton_interpreter.InterpreterBuilder
    multiply = builder.create_dot

    def create_dot(self: Any, a: Any, b: Any, *options: Any) -> Any:
        return multiply(self, _widened(a), _widened(b), *options)

    builder.create_dot = create_dot


def _run(function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    with torch.no_grad():
        return function(*arguments, **options)


def _widened(operand: Any) -> Any:
    """Return a bfloat16 operand in float32, and any other as it is."""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    if operand.dtype.scalar is not tl.bfloat16:
        return operand
    bits = operand.data.astype(np.uint32) << 16
    return TensorHandle(bits.view(np.float32), tl.float32)


def _rounded(values: Any, dtype: Any, wanted: Any, _mode: Any) -> Any:
    """Convert bits of one float type to bits of another, rounding to nearest even."""
    bits = f"uint{dtype.primitive_bitwidth}"
    flat = np.frombuffer(values.tobytes(), dtype=bits).astype(bits.removeprefix("u"), copy=True)
    converted = torch.from_numpy(flat).view(_TORCH[dtype.name]).to(_TORCH[wanted.name])
    as_integers = {8: torch.uint8, 16: torch.int16, 32: torch.int32}[wanted.primitive_bitwidth]
    unsigned = f"uint{wanted.primitive_bitwidth}"
    return converted.view(as_integers).numpy().view(unsigned).reshape(values.shape)
