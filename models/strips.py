"""Pictures cut into strips of rows, one for each rank: how a group decodes one video."""

import torch
from torch import Tensor

from models.mesh import Mesh


class Strips:
    """How the ``rows`` of a picture are dealt out. Pictures are ``[t, channels, height, width]``.

    Layers that double the size double every strip. Pictures of fewer rows than ranks stay with rank 0.
    """

    def __init__(self, mesh: Mesh, rows: int) -> None:
        self._mesh = mesh
        self._ranks = mesh.plan.devices if rows >= mesh.plan.devices else 1
        self._starts = [rows * rank // self._ranks for rank in range(self._ranks + 1)]

    @property
    def several(self) -> bool:
        return self._ranks > 1

    @property
    def takes_part(self) -> bool:
        return self._mesh.rank < self._ranks

    def cut(self, pictures: Tensor) -> Tensor:
        """This rank's rows of whole pictures."""
        start, end = self._starts[self._mesh.rank :][:2]
        return pictures[:, :, start:end].contiguous(memory_format=torch.channels_last)

    def with_neighbours(self, strip: Tensor) -> Tensor:
        """The strip with the row above it and the one below it, zeros where the picture ends."""
        rank = self._mesh.rank
        row = (*strip.shape[:2], strip.shape[3])
        above, below = strip.new_zeros(row), strip.new_zeros(row)
        sent, awaited = {}, {}
        if rank > 0:
            sent[rank - 1], awaited[rank - 1] = strip[:, :, 0].contiguous(), above
        if rank + 1 < self._ranks:
            sent[rank + 1], awaited[rank + 1] = strip[:, :, -1].contiguous(), below
        self._mesh.exchanged(sent, awaited).wait()
        return torch.cat([above[:, :, None], strip, below[:, :, None]], dim=2)

    def joined(self, strip: Tensor) -> Tensor | None:
        """Whole pictures on rank 0, None on the others."""
        if not self.several:
            return strip if self.takes_part else None
        rank = self._mesh.rank
        strip = strip.contiguous()
        if rank > 0:
            self._mesh.exchanged({0: strip}, {}).wait()
            return None
        scale = strip.shape[2] // self._starts[1]
        heights = [(end - start) * scale for start, end in zip(self._starts, self._starts[1:], strict=False)]
        others = {
            other: strip.new_empty(*strip.shape[:2], heights[other], strip.shape[3])
            for other in range(1, self._ranks)
        }
        self._mesh.exchanged({}, others).wait()
        return torch.cat([strip, *others.values()], dim=2)
