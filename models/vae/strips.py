"""Spatial parallelism of the VAE: pictures cut into strips of rows, one for each rank, with a halo
exchange.
"""

import torch
from torch import Tensor

from models.parallel.mesh import Mesh


class Strips:
    """Division of a picture's latent ``rows`` among ranks. Pictures are ``[t, channels, height, width]``.

    A strip begins at the same latent row at every resolution inside the VAE, so a layer that doubles or
    halves the size does so within each strip. Pictures of fewer latent rows than ranks are not cut.
    """

    def __init__(self, mesh: Mesh, rows: int) -> None:
        self._mesh = mesh
        self._rows = rows
        self._ranks = mesh.plan.devices if rows >= mesh.plan.devices else 1
        self._starts = [rows * rank // self._ranks for rank in range(self._ranks + 1)]

    @property
    def several(self) -> bool:
        """True if the picture is cut into more than one strip."""
        return self._ranks > 1

    @property
    def takes_part(self) -> bool:
        """True if this rank has a strip. A picture that is not cut is rank 0's."""
        return self._mesh.rank < self._ranks

    def cut(self, pictures: Tensor) -> Tensor:
        """Cut this rank's strip out of whole pictures."""
        scale = pictures.shape[2] // self._rows
        start, end = self._starts[self._mesh.rank :][:2]
        strip = pictures[:, :, start * scale : end * scale]
        return strip.contiguous(memory_format=torch.channels_last)

    def exchange_halo(self, strip: Tensor) -> Tensor:
        """Exchange border rows with the neighbouring strips (halo exchange).

        Returns the strip with the row above it and the row below it, zeros where the picture ends.
        """
        above, below = self._borders(strip[:, :, 0], strip[:, :, -1])
        return torch.cat([above[:, :, None], strip, below[:, :, None]], dim=2)

    def fill_halo(self, pictures: Tensor) -> None:
        """Exchange border rows, and write them to the first and the last row of ``pictures``.

        The rows between these two are the strip.
        """
        pictures[:, :, 0], pictures[:, :, -1] = self._borders(pictures[:, :, 1], pictures[:, :, -2])

    def fill_row_below(self, pictures: Tensor) -> None:
        """Exchange the lower half of the halo, and write it to the last row of ``pictures``.

        The rows before it are the strip. Where the picture ends, nothing is written.
        """
        rank = self._mesh.rank
        first = pictures[:, :, 0].contiguous()
        below = torch.empty_like(first)
        follows = rank + 1 < self._ranks
        sent = {rank - 1: first} if rank > 0 else {}
        self._mesh.exchange(sent, {rank + 1: below} if follows else {}).wait()
        if follows:
            pictures[:, :, -1] = below

    def joined(self, strip: Tensor) -> Tensor | None:
        """Gather whole pictures on rank 0; return None on the other ranks."""
        if not self.several:
            return strip if self.takes_part else None
        if self._mesh.rank > 0:
            self._mesh.exchange({0: strip.contiguous()}, {}).wait()
            return None
        return self._collected(strip, sent={})

    def whole(self, strip: Tensor) -> Tensor:
        """Gather whole pictures on every rank."""
        if not self.several:
            return strip
        strip = strip.contiguous()
        others = [rank for rank in range(self._ranks) if rank != self._mesh.rank]
        return self._collected(strip, sent=dict.fromkeys(others, strip))

    def _borders(self, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Send this strip's first and last row to the neighbours; return the rows above and below it."""
        rank = self._mesh.rank
        above, below = first.new_zeros(first.shape), last.new_zeros(last.shape)
        sent, awaited = {}, {}
        if rank > 0:
            sent[rank - 1], awaited[rank - 1] = first.contiguous(), above
        if rank + 1 < self._ranks:
            sent[rank + 1], awaited[rank + 1] = last.contiguous(), below
        self._mesh.exchange(sent, awaited).wait()
        return above, below

    def _collected(self, strip: Tensor, sent: dict[int, Tensor]) -> Tensor:
        rank = self._mesh.rank
        scale = strip.shape[2] // (self._starts[rank + 1] - self._starts[rank])
        heights = [(end - start) * scale for start, end in zip(self._starts, self._starts[1:], strict=False)]
        strips = {
            other: strip.new_empty(*strip.shape[:2], height, strip.shape[3])
            for other, height in enumerate(heights)
        }
        strips[rank] = strip
        self._mesh.exchange(sent, {other: part for other, part in strips.items() if other != rank}).wait()
        return torch.cat([*strips.values()], dim=2)
