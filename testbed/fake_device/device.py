"""A CUDA device that computes nothing: the host's tensors are real, the device's have shapes only.

Code that is meant for a GPU runs on it as it is, at any size, and fails where tensors of different devices
meet. Observers see each operation. What comes back from the device is zeros.
"""

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorConverter,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode

from testbed.fake_device.cuda_calls import cuda_calls
from testbed.fake_device.operation import Operation, Overload, operation_of, tensors

_H200_BYTES = 140 * 10**9

_aten = torch.ops.aten
_CONVOLUTIONS = {_aten.conv2d.default: 4, _aten.conv3d.default: 5, _aten.convolution.default: None}
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class Observer(Protocol):
    """Sees what happens on the device."""

    def operated(self, operation: Operation) -> None:
        """See one operation, after it."""

    def waited(self, name: str) -> None:
        """See that the host waits until the device has done all that is queued."""


class FakeDevice(TorchDispatchMode):
    """While entered, ``device`` can be computed on. Can be entered again; its tensors stay its own.

    Two values are compared as equal (``torch.equal``), and a number that is read is 0.
    """

    def __init__(self, free_bytes: int = _H200_BYTES) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        _accept_cuda()
        # with an index: without one, torch asks which device is the current one, and there is none
        self.device = torch.device("cuda", 0)
        self._free_bytes = free_bytes
        self._fake = FakeTensorMode()
        self._fake.fake_tensor_converter = _Forgetful()
        self._observers: list[Observer] = []
        self._entered: list[ExitStack] = []

    @contextmanager
    def observed_by(self, *observers: Observer) -> Iterator[None]:
        """Tell ``observers`` of all operations in the meantime."""
        before = self._observers
        self._observers = [*before, *observers]
        try:
            yield
        finally:
            self._observers = before

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._fake)
            stack.enter_context(cuda_calls(self._waits, self._free_bytes))
            super().__enter__()  # type: ignore[no-untyped-call]
            self._entered.append(stack.pop_all())
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._entered.pop().__exit__(*error)

    def __torch_dispatch__(
        self, func: Overload, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute on the host as ever, and on the device nothing but shapes."""
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        if not self._is_for_device(args, kwargs):
            with unset_fake_temporarily():
                return _on_host(func, args, kwargs)
        if func in _ANSWERS:
            self._waits(str(func.overloadpacket))
            return _ANSWERS[func]
        if func is _aten.copy_.default and _is_on_host(args[0]):
            self._copied(func, args, kwargs)
            return args[0]
        if _is_composed(func):
            with self:
                return func._op_dk(_COMPOSED, *args, **kwargs)
        return self._on_device(func, args, kwargs)

    def _on_device(self, func: Overload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        shaped_args = [_shape_only(value) for value in args]
        shaped = {name: _shape_only(value) for name, value in kwargs.items()}
        if func is _aten.copy_.default:  # torch's own fake copies take long, and a decode has thousands
            result = args[0]
        else:
            result = _as_cuda_lays_it_out(func, shaped_args, func(*shaped_args, **shaped))
        comes_back = isinstance(result, FakeTensor) and result.fake_device.type == "cpu"
        if comes_back or (func in _COPIES and any(_is_on_host(tensor) for tensor in tensors(tuple(args)))):
            self._copied(func, args, kwargs)
        operation = operation_of(func, shaped_args, shaped, result)
        for observer in self._observers:
            observer.operated(operation)
        if comes_back:
            with unset_fake_temporarily():
                return torch.zeros(result.shape, dtype=result.dtype)
        return result

    def _is_for_device(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "cuda":
            return True
        given = (*args, *kwargs.values())
        return any(isinstance(tensor, FakeTensor) for tensor in tensors(given)) or any(
            isinstance(value, torch.device) and value.type == "cuda" for value in args
        )

    def _copied(self, func: Overload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """See a copy between host and device, for which the host waits unless it asks not to."""
        names = (argument.name for argument in func._schema.arguments)
        if not (dict(zip(names, args, strict=False)) | dict(kwargs)).get("non_blocking"):
            self._waits("a copy between host and device")

    def _waits(self, name: str) -> None:
        for observer in self._observers:
            observer.waited(name)


class _Forgetful(FakeTensorConverter):
    """Keeps no weak references to tensors, since ``Module.to`` moves no parameter that has one."""

    def set_tensor_memo(self, t: Tensor, v: FakeTensor) -> None:
        """Remember nothing: no real tensor is ever converted a second time."""


_ANSWERS = {_aten._local_scalar_dense.default: 0, _aten.equal.default: True, _aten.is_nonzero.default: False}
"""Operations whose result the host needs, and what is answered for values that there are none of."""
_WHOLE = frozenset(
    {
        _aten.scaled_dot_product_attention.default,
        _aten.rms_norm.default,
        *_CONVOLUTIONS,
    }
)
"""Operations that one kernel of CUDA does, although torch describes them by others."""
_COMPOSED = torch._C.DispatchKey.CompositeImplicitAutograd


@cache
def _is_composed(func: Overload) -> bool:
    """Return whether torch does an operation by calling others, which then count in its place."""
    return func not in _WHOLE and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSED)


_COPIES = frozenset(
    {
        _aten.copy_.default,
        _aten._to_copy.default,
        _aten.to.device,
        _aten.to.dtype_layout,
        _aten.to.other,
    }
)


def _on_host(func: Overload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    # torch pins memory for a real device only: here any of the host's counts as pinned
    if func in (_aten.pin_memory.default, _aten._pin_memory.default):
        return args[0]
    if func is _aten.is_pinned.default:
        return True
    if kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}
    return func(*args, **kwargs)


def _shape_only(value: Any) -> Any:
    """Return a tensor without values in place of a real one, which would be computed with."""
    if isinstance(value, tuple | list):
        return type(value)(map(_shape_only, value))
    if isinstance(value, Tensor) and not isinstance(value, FakeTensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)
    return value


def _is_on_host(tensor: Tensor) -> bool:
    return not isinstance(tensor, FakeTensor) and tensor.device.type == "cpu"


def _as_cuda_lays_it_out(func: Overload, args: Sequence[Any], result: Any) -> Any:
    """Lay out the results of attention and of convolutions in memory as CUDA's kernels do."""
    if func is _aten.scaled_dot_product_attention.default and result.shape == args[0].shape:
        return torch.empty_like(args[0])
    if func in _CONVOLUTIONS and result.ndim in _CHANNELS_LAST:
        layout = _CHANNELS_LAST[result.ndim]
        if any(tensor.is_contiguous(memory_format=layout) for tensor in args[:2]):
            return torch.empty_like(result, memory_format=layout)
    return result


_CUDA, _META = 1, 14
"""Numbers of the kinds of device in c10's ``DeviceType``."""


def _accept_cuda() -> None:
    """Let a build of torch without CUDA take tensors of CUDA devices that have no memory.

    Such a build has no guard of the current CUDA device, which even an index into a tensor asks for. The
    guard of devices without memory does nothing, and here it serves for CUDA as well.
    """
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * (_META + 1)).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    if guards[_CUDA] is None:
        guards[_CUDA] = guards[_META]
