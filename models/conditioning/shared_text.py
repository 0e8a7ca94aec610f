"""Text encoding in a group: rank 0 encodes a prompt and broadcasts its embeddings.

Only rank 0 needs the encoder, which is a large part of the model.
"""

import torch
from torch import Tensor

from models.conditioning.text_encoder import Text
from models.errors import ModelError
from models.parallel.mesh import Mesh

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_FAILED = -1


class SharedText:
    """Implements ``models.conditioning.text_encoder.Text`` for a rank. ``text`` is None on all but rank 0."""

    def __init__(self, mesh: Mesh, text: Text | None, device: torch.device) -> None:
        self._mesh = mesh
        self.text = text
        self._device = device

    @property
    def evictions(self) -> int:
        """Evictions of the encoder on rank 0, none on the others."""
        return 0 if self.text is None else self.text.evictions

    def encode(self, prompt: str) -> Tensor:
        """Encode a prompt as the text encoder does. All ranks call this together.

        Raises, on every rank, if the encoder fails: its own error on rank 0, ``ModelError`` on the others.
        """
        if self.text is None:
            return self._received()
        try:
            embeddings = self.text.encode(prompt)
        except Exception:
            self._mesh.broadcast(torch.tensor([_FAILED, 0, 0]))
            raise
        self._mesh.broadcast(torch.tensor([*embeddings.shape, _DTYPES.index(embeddings.dtype)]))
        return self._mesh.broadcast(embeddings.contiguous())

    def cut_note(self, prompt: str, name: str) -> str | None:
        """Return the encoder's note on rank 0, None on the others."""
        return None if self.text is None else self.text.cut_note(prompt, name)

    def _received(self) -> Tensor:
        tokens, dim, dtype = self._mesh.broadcast(torch.zeros(3, dtype=torch.int64)).tolist()
        if tokens == _FAILED:
            raise ModelError("The prompt could not be encoded.")
        return self._mesh.broadcast(torch.empty(tokens, dim, dtype=_DTYPES[dtype], device=self._device))
