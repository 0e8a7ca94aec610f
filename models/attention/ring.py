"""Ring attention: keys and values travel around a ring of ranks, one part at a time.

Each part yields a result and, for each query, the log-sum-exp of its scores. Two partial results merge into
the softmax over both parts by weighting each in proportion to its sum (Liu et al. 2023, "Ring Attention with
Blockwise Transformers for Near-Infinite Context", https://arxiv.org/abs/2310.01889).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from models.attention.kernels import LogsKernel
from models.parallel.mesh import Mesh


def ring_attention(
    mesh: Mesh,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    unpadded: Callable[[Tensor, int], Tensor],
    kernel: LogsKernel,
    *,
    centres: bool = False,
) -> Tensor:
    """Attend from this rank's queries to every ring rank's keys and values, ``[batch, heads, n, d]`` each.

    ``unpadded``: cuts the padding out of the keys or values of the ring rank of a given number. ``centres``:
    subtract the mean of all ranks' keys from each, which adds the same number to all scores of a query.
    """
    ranks, here = mesh.size("ring"), mesh.index("ring")
    if centres:
        keys = keys - _mean(mesh, keys)
    travelling = [keys.contiguous(), values.contiguous()]
    merged: Merged | None = None
    for lap in range(ranks):
        # the next part travels while this one is computed
        sending = mesh.ring_shift(travelling, "ring") if lap + 1 < ranks else None
        part_keys, part_values = (unpadded(tokens, (here - lap) % ranks) for tokens in travelling)
        if part_keys.shape[2]:
            attended, logs = kernel(queries, part_keys, part_values)
            merged = Merged(attended, logs) if merged is None else merged.with_part(attended, logs)
        if sending is not None:
            travelling = sending.wait()
    assert merged is not None, "a video has tokens"
    return merged.attended.to(queries.dtype)


def _mean(mesh: Mesh, keys: Tensor) -> Tensor:
    """Return the mean of the keys of all ranks, the same bits on each: ``[batch, heads, 1, d]``."""
    # padding counts as zeros: any vector will do that all subtract, and this one is near the mean
    means = mesh.all_gather(keys.mean(dim=2, keepdim=True, dtype=torch.float32), "ring")
    return means.mean(dim=0).to(keys.dtype)


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
