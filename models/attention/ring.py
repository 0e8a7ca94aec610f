"""Ring attention: keys and values travel around a ring of ranks, one part at a time.

Each part yields a result and, for each query, the log-sum-exp of its scores. Two partial results merge into
the softmax over both parts by weighting each in proportion to its sum (Liu et al. 2023, "Ring Attention with
Blockwise Transformers for Near-Infinite Context", https://arxiv.org/abs/2310.01889).
"""

import torch
from torch import Tensor

from models.parallel.mesh import Mesh


def ring_attention(
    mesh: Mesh, queries: Tensor, keys: Tensor, values: Tensor, kept: list[Tensor | None]
) -> Tensor:
    """Attend from this rank's queries to every ring rank's keys and values, ``[batch, heads, n, d]`` each.

    ``kept``: for each ring rank's part, the indices of the keys that are no padding; None keeps all of them.
    """
    ranks, here = mesh.size("ring"), mesh.index("ring")
    travelling = [keys.contiguous(), values.contiguous()]
    merged: Merged | None = None
    for lap in range(ranks):
        # the next part travels while this one is computed
        sending = mesh.ring_shift(travelling, "ring") if lap + 1 < ranks else None
        part = _counted(travelling, kept[(here - lap) % ranks])
        if part[0].shape[2]:
            attended, logs = attention_with_logs(queries, *part)
            merged = Merged(attended, logs) if merged is None else merged.with_part(attended, logs)
        if sending is not None:
            travelling = sending.wait()
    assert merged is not None, "a video has tokens"
    return merged.attended.to(queries.dtype)


class Merged:
    """Partial result over the parts so far, float32: ``attended`` ``[batch, heads, n, d]``, ``logs`` the
    log-sum-exp ``[batch, heads, n]``.
    """

    def __init__(self, attended: Tensor, logs: Tensor) -> None:
        self.attended = attended.float()
        self.logs = logs.float()

    def with_part(self, attended: Tensor, logs: Tensor) -> "Merged":
        """Return the partial result merged with that of another part."""
        share = torch.sigmoid(logs - self.logs)[..., None]  # the new part's weight, of both together
        return Merged(torch.lerp(self.attended, attended.float(), share), torch.logaddexp(self.logs, logs))


def attention_with_logs(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Attend, and return each query's log-sum-exp of scores as well, float32 ``[batch, heads, n]``.

    Calls the kernels behind torch's public attention, which does not return the log-sum-exp.
    """
    aten = torch.ops.aten
    if queries.device.type == "cpu":
        attended, logs = aten._scaled_dot_product_flash_attention_for_cpu(queries, keys, values)
    elif queries.dtype == torch.float32:
        attended, logs, *_ = aten._scaled_dot_product_efficient_attention(queries, keys, values, None, True)
        logs = logs[..., : queries.shape[2]]  # the kernel pads the queries to a multiple of 32
    else:
        attended, logs, *_ = aten._scaled_dot_product_flash_attention(queries, keys, values)
    return attended, logs


def _counted(part: list[Tensor], kept: Tensor | None) -> list[Tensor]:
    return part if kept is None else [tensor.index_select(2, kept) for tensor in part]
