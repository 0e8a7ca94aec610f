"""A part of a model as its folder stores it, such as the VAE: a configuration, and tensors in safetensors
files.

Diffusers' and transformers' own loaders cast on the host, and diffusers' reads each file by one thread.
Here a part is built without memory, then each tensor goes from its mapped file to its place, once.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import ModelMixin
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.errors import WeightsError, first_line
from models.weights.carrier import Carrier
from models.weights.mapped_files import mapped
from models.weights.module_dtypes import ModuleDtypes
from models.weights.safetensors_header import StoredTensor, stored_tensors, weight_files

_AT_ONCE = 4
"""Tensors carried at once: a single thread is slower than a disk, or than the way to a GPU."""

_SHOWN = 3

_PREFIX = "vision_model."
"""Prefix of an image encoder's stored names, which transformers' class no longer has."""

_LEFT_OUT = {
    "AutoencoderKLWan": (),
    "WanTransformer3DModel": (),
    "WanVACETransformer3DModel": (),
    "UMT5EncoderModel": ("decoder.", "lm_head."),
    "CLIPVisionModel": ("visual_projection.", "text_model.", "text_projection.", "logit_scale"),
}
"""What the names of tensors begin with that belong to a whole of which the class is a part."""

_UNUSED = "norm_added_q"
"""Component of tensors' names that diffusers has saved, and that no module of its has."""


def is_unused(name: str) -> bool:
    """Whether diffusers saved a tensor that none of its modules has."""
    return _UNUSED in name.split(".")


class StoredModule:
    """A part of a model: a class of diffusers or transformers, and the folder that it was saved to."""

    def __init__(self, cls: Any, folder: Path) -> None:
        self._cls = cls
        self._folder = folder

    def empty(self) -> Any:
        """Build the module with parameters on the meta device: without memory. Raises ``WeightsError``."""
        try:
            with init_empty_weights(include_buffers=False):
                if issubclass(self._cls, ModelMixin):
                    return self._cls.from_config(self._cls.load_config(self._folder, local_files_only=True))
                return self._cls(self._cls.config_class.from_pretrained(self._folder, local_files_only=True))
        except Exception as error:  # a broken configuration makes diffusers or transformers raise any type
            raise self._failed(error) from error

    def load(self, carrier: Carrier, dtype: torch.dtype, *, as_stored: bool = False) -> Any:
        """Return the module on the carrier's device, in ``dtype`` as far as ``ModuleDtypes`` says so.

        ``as_stored``: leave the parameters in the dtype of the files, for an ``Arrival``. Raises
        ``WeightsError`` for tensors that are missing, of another shape or of no use.
        """
        model = self.empty()
        stored = self._checked(model)
        dtypes = ModuleDtypes(model, dtype)
        in_order = sorted(stored, key=lambda name: (stored[name].file, stored[name].begin))
        with mapped(stored.values(), self._folder) as files:

            def read(name: str) -> Tensor:
                tensor = files.tensor(stored[name])
                return carrier.carry(tensor, tensor.dtype if as_stored else dtypes.of(name))

            try:
                fill(model, in_order, read, tied=_tied(model))
                return ready(model, carrier.device)
            except (RuntimeError, MemoryError) as error:
                raise self._failed(error) from error

    def _checked(self, model: Any) -> dict[str, StoredTensor]:
        """Return the stored tensor of each parameter, by the module's names."""
        names, tied = dict(model.named_parameters(remove_duplicate=False)), _tied(model)
        found = dict(self._stored(names, set(dict(model.named_buffers()))))
        for name, same in tied.items():
            if same not in found and name in found:
                found[same] = found[name]
            found.pop(name, None)
        wanted = names.keys() - tied.keys()
        cls = self._cls.__name__
        for fault, faulty in (
            (f"lacks {{}} tensors of {cls}", wanted - found.keys()),
            (f"has {{}} tensors that are none of {cls}", found.keys() - wanted),
            (
                f"has {{}} tensors in another shape than {cls}",
                {name for name in wanted & found.keys() if found[name].shape != tuple(names[name].shape)},
            ),
        ):
            if faulty:
                raise WeightsError(
                    f"{self._folder} {fault.format(len(faulty))}, such as {first_few(faulty)}."
                )
        return found

    def _stored(
        self, parameters: Collection[str], buffers: Collection[str]
    ) -> Iterable[tuple[str, StoredTensor]]:
        for file in weight_files(self._folder):
            for tensor in stored_tensors(file):
                name = tensor.name
                if name not in parameters:
                    name = name.removeprefix(_PREFIX)
                if not (name.startswith(_LEFT_OUT[self._cls.__name__]) or is_unused(name) or name in buffers):
                    yield name, tensor

    def _failed(self, error: BaseException) -> WeightsError:
        return WeightsError(
            f"{self._folder} could not be loaded as {self._cls.__name__}: {first_line(error)}"
        )


def fill(
    model: Any, names: Collection[str], read: Callable[[str], Tensor], tied: Mapping[str, str] | None = None
) -> None:
    """Give a module on the meta device the parameters of these names that ``read`` returns, a few at a time.

    ``tied``: names of parameters that are one with another, by the other's name.
    """
    with ThreadPoolExecutor(_AT_ONCE, "weights") as threads:
        parameters = {
            name: nn.Parameter(tensor, requires_grad=False)
            for name, tensor in zip(names, threads.map(read, names), strict=True)
        }
    parameters |= {name: parameters[same] for name, same in (tied or {}).items()}
    model.load_state_dict(parameters, assign=True)


def ready(model: Any, device: torch.device) -> Any:
    """Return a module whose parameters are there ready for use: its buffers on the device, too."""
    return model.eval().requires_grad_(False).to(device)


def first_few(names: Collection[str]) -> str:
    """Return the first few of the names, in order."""
    return ", ".join(sorted(names)[:_SHOWN])


def _tied(model: Any) -> Mapping[str, str]:
    """Return the names of parameters that are one with another, whose name is the value."""
    return model._tied_weights_keys or {} if isinstance(model, PreTrainedModel) else {}
