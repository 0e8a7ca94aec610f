"""Attention to keys and values that travel around a circle of ranks, one part at a time.

Each part gives a result and, for each query, the log of the sum of its exponentiated scores. Two parts merge
as softmax over both would have weighed them: in proportion to those sums.
"""

import torch
from torch import Tensor

from models.parallel.mesh import Mesh


def ring_attention(
    mesh: Mesh, queries: Tensor, keys: Tensor, values: Tensor, kept: list[Tensor | None]
) -> Tensor:
    """Attention of this rank's queries to every rank's keys and values, ``[batch, heads, n, d]`` each.

    ``kept``: for the part of each rank of the ring, which of its keys count; None for all of them.
    """
    ranks, here = mesh.size("ring"), mesh.index("ring")
    travelling = [keys.contiguous(), values.contiguous()]
    merged: Merged | None = None
    for lap in range(ranks):
        # the next part arrives while this one is worked on
        sending = mesh.passed_on(travelling, "ring") if lap + 1 < ranks else None
        part = _counted(travelling, kept[(here - lap) % ranks])
        if part[0].shape[2]:
            attended, logs = attention_with_logs(queries, *part)
            merged = Merged(attended, logs) if merged is None else merged.with_part(attended, logs)
        if sending is not None:
            travelling = sending.wait()
    assert merged is not None, "a video has tokens"
    return merged.attended.to(queries.dtype)


class Merged:
    """Attention to all parts so far, float32: ``attended`` ``[batch, heads, n, d]``, ``logs`` without d."""

    def __init__(self, attended: Tensor, logs: Tensor) -> None:
        self.attended = attended.float()
        self.logs = logs.float()

    def with_part(self, attended: Tensor, logs: Tensor) -> "Merged":
        """Attention over the keys so far and those of another part."""
        share = torch.sigmoid(logs - self.logs)[..., None]  # the new part's, of both
        return Merged(torch.lerp(self.attended, attended.float(), share), torch.logaddexp(self.logs, logs))


def attention_with_logs(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Attention, and the log of each query's sum of exponentiated scores, float32 ``[batch, heads, n]``.

    torch's public attention keeps that sum to itself; these are the kernels it chooses from.
    """
    aten = torch.ops.aten
    if queries.device.type == "cpu":
        attended, logs = aten._scaled_dot_product_flash_attention_for_cpu(queries, keys, values)
    elif queries.dtype == torch.float32:
        attended, logs, *_ = aten._scaled_dot_product_efficient_attention(queries, keys, values, None, True)
        logs = logs[..., : queries.shape[2]]  # it fills up to a multiple of 32 queries
    else:
        attended, logs, *_ = aten._scaled_dot_product_flash_attention(queries, keys, values)
    return attended, logs


def _counted(part: list[Tensor], kept: Tensor | None) -> list[Tensor]:
    return part if kept is None else [tensor.index_select(2, kept) for tensor in part]
