"""Where a fragment of a long video stands, and the end of it that the next one goes on from."""

from collections.abc import Iterator

import numpy as np
import torch

from models.engine import Frames, GenerationRequest
from models.errors import ModelError
from models.parallel.mesh import Mesh
from models.variants import Variant


class Fragment:
    """The ``index``-th fragment of a request. It keeps a few frames, however long the video is."""

    def __init__(self, variant: Variant, request: GenerationRequest, index: int = 0) -> None:
        if index >= request.num_fragments:
            raise ModelError(f"All {request.num_fragments} fragments of this request are made.")
        self.index = index
        self._overlap = variant.overlap(request.num_frames)
        self._shape = (self._overlap, request.height, request.width, 3)
        self._goes_on = index + 1 < request.num_fragments
        self._tail = np.zeros((0, *self._shape[1:]), dtype=np.uint8)
        self._ended = False

    def shown(self, frames: Iterator[Frames]) -> Iterator[Frames]:
        """``frames`` of this fragment without those that the one before has shown."""
        repeated = self._overlap if self.index else 0
        for some in frames:
            if self._goes_on:
                self._tail = np.concatenate([self._tail, some])[-self._overlap :]
            rest = some[repeated:]
            repeated = max(repeated - len(some), 0)
            if len(rest):
                yield rest
        self._ended = True

    @property
    def kept_frames(self) -> int:
        """Frames that are kept for the next fragment."""
        return len(self._tail)

    def tail(self, mesh: Mesh) -> Frames:
        """The frames that the next fragment begins with; rank 0, which has them, tells the others."""
        if not self._ended:
            raise ModelError("The fragment before this one is not decoded to its end.")
        tail = torch.from_numpy(self._tail) if mesh.rank == 0 else torch.empty(self._shape, dtype=torch.uint8)
        frames: Frames = mesh.from_first(tail).numpy()
        return frames
