"""Safetensors files mapped into memory: the system reads what of them is used, into its own cache."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.errors import WeightsError
from models.weights.safetensors_header import StoredTensor


class MappedFiles:
    """The tensors of several files, as views of the files' contents.

    What is written to a view stays this process's own; a view keeps its file mapped for as long as it lives.
    """

    def __init__(self, readers: dict[Path, Any]) -> None:
        self._readers = readers

    def tensor(self, stored: StoredTensor) -> Tensor:
        """Return a tensor in the dtype that it is stored in. Nothing is read yet."""
        tensor: Tensor = self._readers[stored.file].get_tensor(stored.name)
        return tensor


@contextmanager
def mapped(tensors: Iterable[StoredTensor], path: Path) -> Iterator[MappedFiles]:
    """Map the files that these tensors lie in. Raises ``WeightsError`` with ``path`` if one cannot be
    read.
    """
    try:
        with ExitStack() as stack:
            files = {tensor.file for tensor in tensors}
            yield MappedFiles({file: stack.enter_context(safe_open(file, framework="pt")) for file in files})
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
