"""A part of a model as its folder stores it, such as the VAE: a configuration, and tensors in safetensors
files.

Diffusers' and transformers' own loaders cast on the host, and diffusers' reads each file by one thread.
Here a part is built without memory, then each tensor goes from its mapped file to its place, once.
"""

import json
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from models.errors import WeightsError, first_line
from models.networks.network import Network
from models.weights.carrier import Carrier
from models.weights.mapped_files import mapped
from models.weights.module_dtypes import ModuleDtypes
from models.weights.safetensors_header import StoredTensor, stored_tensors, weight_files

_AT_ONCE = 4
"""Tensors carried at once: a single thread is slower than a disk, or than the way to a GPU."""

_SHOWN = 3

_PREFIX = "vision_model."
"""Prefix of an image encoder's stored names, by which it is a part of CLIP."""

_N = TypeVar("_N", bound=Network)

_UNUSED = "norm_added_q"
"""Component of tensors' names that diffusers has saved, and that no module of its has."""


def is_unused(name: str) -> bool:
    """Whether diffusers saved a tensor that none of its modules has."""
    return _UNUSED in name.split(".")


class StoredModule(Generic[_N]):
    """A part of a model: a kind of network, and the folder that one was saved to."""

    def __init__(self, cls: type[_N], folder: Path) -> None:
        self._cls = cls
        self._folder = folder

    def empty(self) -> _N:
        """Build the module with parameters on the meta device: without memory. Raises ``WeightsError``."""
        try:
            stored = json.loads((self._folder / "config.json").read_text(encoding="utf-8"))
            with torch.device("meta"):
                return self._cls.from_config(stored)
        except Exception as error:  # a broken configuration makes torch raise any type
            raise self._failed(error) from error

    def load(self, carrier: Carrier, dtype: torch.dtype, *, as_stored: bool = False) -> _N:
        """Return the module on the carrier's device, in ``dtype`` as far as ``ModuleDtypes`` says so.

        ``as_stored``: leave the parameters in the dtype of the files, for an ``Arrival``. Raises
        ``WeightsError`` for tensors that are missing, of another shape or of no use.
        """
        model = self.empty()
        stored = self._checked(model)
        dtypes = ModuleDtypes(self._cls, dtype)
        in_order = sorted(stored, key=lambda name: (stored[name].file, stored[name].begin))
        with mapped(stored.values(), self._folder) as files:

            def read(name: str) -> Tensor:
                tensor = files.tensor(stored[name])
                return carrier.carry(tensor, tensor.dtype if as_stored else dtypes.of(name))

            try:
                fill(model, in_order, read)
                return ready(model, carrier.device)
            except (RuntimeError, MemoryError) as error:
                raise self._failed(error) from error

    def _checked(self, model: _N) -> dict[str, StoredTensor]:
        """Return the stored tensor of each parameter, by the module's names."""
        wanted = dict(model.named_parameters())
        found = dict(self._stored(wanted))
        cls = self._cls.__name__
        for fault, faulty in (
            (f"lacks {{}} tensors of {cls}", wanted.keys() - found.keys()),
            (f"has {{}} tensors that are none of {cls}", found.keys() - wanted.keys()),
            (
                f"has {{}} tensors in another shape than {cls}",
                {name for name in wanted & found.keys() if found[name].shape != tuple(wanted[name].shape)},
            ),
        ):
            if faulty:
                raise WeightsError(
                    f"{self._folder} {fault.format(len(faulty))}, such as {first_few(faulty)}."
                )
        return found

    def _stored(self, parameters: Collection[str]) -> Iterable[tuple[str, StoredTensor]]:
        for file in weight_files(self._folder):
            for tensor in stored_tensors(file):
                name = self._cls.other_names.get(tensor.name, tensor.name)
                if name not in parameters:
                    name = name.removeprefix(_PREFIX)
                if not (name.startswith(self._cls.left_out) or is_unused(name)):
                    yield name, tensor

    def _failed(self, error: BaseException) -> WeightsError:
        return WeightsError(
            f"{self._folder} could not be loaded as {self._cls.__name__}: {first_line(error)}"
        )


def fill(model: Any, names: Collection[str], read: Callable[[str], Tensor]) -> None:
    """Give a module on the meta device the parameters of these names that ``read`` returns, a few at a
    time.
    """
    with ThreadPoolExecutor(_AT_ONCE, "weights") as threads:
        parameters = {
            name: nn.Parameter(tensor, requires_grad=False)
            for name, tensor in zip(names, threads.map(read, names), strict=True)
        }
    model.load_state_dict(parameters, assign=True)


def ready(model: _N, device: torch.device) -> _N:
    """Return a module whose parameters are there ready for use: its buffers on the device, too."""
    return model.eval().requires_grad_(False).to(device)


def first_few(names: Collection[str]) -> str:
    """Return the first few of the names, in order."""
    return ", ".join(sorted(names)[:_SHOWN])
