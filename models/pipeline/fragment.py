"""A fragment of a long video: its index, and the last frames, from which the next fragment continues."""

from collections.abc import Iterator

import torch
from torch import Tensor

from models.engine import Frames, GenerationRequest
from models.errors import ModelError
from models.parallel.mesh import Mesh
from models.pipeline.pixels import levels
from models.variants import Variant


class Fragment:
    """Fragment number ``index`` of a request. Keeps only the overlap frames, however long the video is.

    Raises ``ModelError`` if the request has no such fragment.
    """

    def __init__(self, variant: Variant, request: GenerationRequest, index: int = 0) -> None:
        if index >= request.num_fragments:
            raise ModelError(f"All {request.num_fragments} fragments of this request are made.")
        self.index = index
        self._overlap = variant.overlap(request.num_frames)
        self._shape = (self._overlap, request.height, request.width, 3)
        self._repeats = index > 0 or request.tail is not None
        self._has_next = index + 1 < request.num_fragments
        self._tail = torch.empty((0, *self._shape[1:]), dtype=torch.uint8)
        self._decoded = False

    def shown(self, chunks: Iterator[Tensor]) -> Iterator[Tensor]:
        """Yield this fragment's decoded ``chunks``, ``[n, 3, height, width]`` in −1 … 1, without the overlap
        that the fragment before, or the video that the request goes on from, has shown.
        """
        repeated = self._overlap if self._repeats else 0
        for chunk in chunks:
            if self._has_next:
                last = levels(chunk[-self._overlap :])
                self._tail = torch.cat([self._tail.to(last.device), last])[-self._overlap :]
            rest = chunk[repeated:]
            repeated = max(repeated - len(chunk), 0)
            if len(rest):
                yield rest
        self._decoded = True

    @property
    def kept_frames(self) -> int:
        """Number of frames kept for the next fragment."""
        return len(self._tail)

    def tail(self, mesh: Mesh) -> Frames:
        """Return the frames that the next fragment begins with, broadcast from rank 0.

        Raises ``ModelError`` if this fragment is not decoded to its end.
        """
        if not self._decoded:
            raise ModelError("The fragment before this one is not decoded to its end.")
        tail = self._tail.cpu() if mesh.rank == 0 else torch.empty(self._shape, dtype=torch.uint8)
        frames: Frames = mesh.broadcast(tail).numpy()
        return frames
