"""Ring attention: keys and values travel around a ring of ranks, one part at a time.

Each part yields a result and, for each query, the log-sum-exp of its scores. Two partial results merge into
the softmax over both parts by weighting each in proportion to its sum (Liu et al. 2023, "Ring Attention with
Blockwise Transformers for Near-Infinite Context", https://arxiv.org/abs/2310.01889).
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.attention.kernels import LogsKernel, ScaledLogsKernel
from models.kernels.operations import FP8
from models.kernels.scaled_heads import ScaledHeads, scaled_heads
from models.parallel.mesh import Mesh


def ring_attention(
    mesh: Mesh, queries: Tensor, keys: Tensor, values: Tensor, counts: Sequence[int], kernel: LogsKernel
) -> Tensor:
    """Attend from this rank's queries to every ring rank's keys and values, ``[batch, heads, n, d]`` each.

    ``counts``: the number of keys of each ring rank.
    """

    def attend(part: list[Tensor], count: int) -> tuple[Tensor, Tensor]:
        part_keys, part_values = (tokens[:, :, :count] for tokens in part)
        return kernel(queries, part_keys, part_values)

    own = [_filled_up(tokens, 2, max(counts)).contiguous() for tokens in (keys, values)]
    return _around(mesh, own, counts, attend).to(queries.dtype)


def ring_attention_in_8_bits(
    mesh: Mesh, queries: Tensor, keys: Tensor, values: Tensor, counts: Sequence[int], kernel: ScaledLogsKernel
) -> Tensor:
    """The same by a kernel of 8 bits, in which the parts travel, each with scales of its own.

    The mean of all ranks' keys is subtracted from each, which adds the same number to all scores of a query.
    """
    keys = keys - _mean(mesh, keys, sum(counts))
    scaled = scaled_heads(queries)
    own = [_quantised(tokens, max(counts)) for tokens in (keys, values)]

    def attend(part: list[Tensor], count: int) -> tuple[Tensor, Tensor]:
        *both, scales = part
        part_keys, part_values = (
            ScaledHeads(tokens.view(FP8)[:, :count].transpose(1, 2), scale)
            for tokens, scale in zip(both, scales.unbind(), strict=True)
        )
        return kernel(scaled, part_keys, part_values)

    travelling = [*(heads for heads, _ in own), torch.stack([scale for _, scale in own])]
    return _around(mesh, travelling, counts, attend).to(queries.dtype)


def _around(
    mesh: Mesh,
    travelling: list[Tensor],
    counts: Sequence[int],
    attend: Callable[[list[Tensor], int], tuple[Tensor, Tensor]],
) -> Tensor:
    """Attend to the parts as they come around, from this rank's own on; return the float32 result.

    ``attend``: called with the tensors of a part and its number of keys.
    """
    ranks, here = mesh.size("ring"), mesh.index("ring")
    merged: Merged | None = None
    for lap in range(ranks):
        # the next part travels while this one is computed
        sending = mesh.ring_shift(travelling, "ring") if lap + 1 < ranks else None
        if count := counts[(here - lap) % ranks]:
            attended, logs = attend(travelling, count)
            merged = Merged(attended, logs) if merged is None else merged.with_part(attended, logs)
        if sending is not None:
            travelling = sending.wait()
    assert merged is not None, "a video has tokens"
    return merged.attended


def _mean(mesh: Mesh, keys: Tensor, count: int) -> Tensor:
    """Return the mean of the keys of all ranks, ``count`` in all, the same bits on each: ``[batch, heads, 1,
    d]``.
    """
    sums = mesh.all_gather(keys.sum(dim=2, keepdim=True, dtype=torch.float32), "ring")
    return (sums.sum(dim=0) / count).to(keys.dtype)


def _quantised(tokens: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return bytes of 8-bit numbers ``[batch, most, heads, d]``, and the scale of each head."""
    if not tokens.shape[2]:  # of no number is one the largest
        tokens = _filled_up(tokens, 2, most)
    heads = scaled_heads(tokens)
    # as bytes, since not all that sends knows the 8-bit numbers
    return _filled_up(heads.values.view(torch.uint8).transpose(1, 2), 1, most), heads.scale


def _filled_up(tokens: Tensor, dim: int, most: int) -> Tensor:
    """Append zeros along a dimension, so that the parts of all ranks are of one size."""
    missing = most - tokens.shape[dim]
    return F.pad(tokens, (0, 0) * (tokens.ndim - 1 - dim) + (0, missing)) if missing else tokens


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
