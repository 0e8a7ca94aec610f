"""Sequence parallelism: one rank's shard of the tokens, and its self-attention to all of them.

Combines Ulysses (an all-to-all between tokens and heads, https://arxiv.org/abs/2309.14509) with ring
attention.

Shapes: tokens ``[batch, rows, n, dim]``, where a row is the tokens that share one timestep (the whole video,
or one latent frame); queries, keys and values ``[batch, heads, n, head_dim]``.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from models.attention.kernels import OF_8_BITS, WITH_LOGS, AttentionKernel, sdpa
from models.attention.ring import ring_attention, ring_attention_in_8_bits
from models.parallel.mesh import Mesh


class Shard:
    """An equal part of every row, so that all ranks have the same rows and the same amount of work.

    Attention does not depend on the order of tokens (the rotary table is sharded alike), so a shard need not
    be one contiguous stretch of the sequence. A row that does not divide evenly is padded at its end; the
    padding is removed from the keys before attention and from the result.
    """

    def __init__(
        self,
        mesh: Mesh,
        rows: int,
        row_tokens: int,
        kernel: AttentionKernel = sdpa,
        order: Tensor | None = None,
    ) -> None:
        """``kernel``: the attention kernel; in a ring one of ``models.attention.kernels.WITH_LOGS``.
        ``order``: the tokens of a row in the order in which the kernel is to take them, row after row, as
        queries and as keys; not in a ring. None leaves it as it is, and to the ranks.
        """
        parts = mesh.plan.sequence
        self._mesh = mesh
        self._kernel = kernel
        self._order = order
        self.rows = rows
        self._row_tokens = row_tokens
        self._tokens = -(-row_tokens // parts)
        """Tokens of a row on one rank, padding included."""
        self._padded = self._tokens * parts > row_tokens

    def cut(self, tokens: Tensor) -> Tensor:
        """Cut this rank's shard of whole rows, ``[..., rows, tokens, dim]`` to ``[..., rows, n, dim]``."""
        if self._order is not None:
            tokens = tokens.index_select(-2, self._order)
        if self._mesh.plan.sequence == 1:
            return tokens
        start = min(self._mesh.sequence_index * self._tokens, self._row_tokens)
        part = tokens[..., start : start + self._tokens, :]
        return F.pad(part, (0, 0, 0, self._tokens - part.shape[-2]))

    def own(self, tokens: Tensor) -> Tensor:
        """Remove the padding of this rank's shard, ``[..., rows, n, dim]`` to ``[..., rows, real, dim]``."""
        real = self._row_tokens - self._mesh.sequence_index * self._tokens
        return tokens[..., : max(min(real, self._tokens), 0), :]

    def whole(self, tokens: Tensor) -> Tensor:
        """Gather whole rows from the shards of all ranks, on every rank (all-gather)."""
        if self._mesh.plan.sequence > 1:
            parts = self._mesh.all_gather(self._mesh.all_gather(tokens, "ulysses"), "ring")
            # ring ulysses b rows n dim -> b rows (ring ulysses n) dim
            tokens = parts.flatten(0, 1).movedim(0, 2).flatten(2, 3)[..., : self._row_tokens, :]
        return tokens if self._order is None else tokens.index_select(-2, self._order.argsort())

    def by_heads(self, tokens: Tensor) -> Callable[[], Tensor]:
        """Start the Ulysses all-to-all from all heads of this shard to this rank's heads of the whole ring
        part.

        Returns a function that waits for the result: ``[batch, heads, n, d]`` to ``[batch, heads / ulysses,
        ulysses · n, d]``.
        """
        ranks = self._mesh.plan.ulysses
        if ranks == 1:
            return lambda: tokens
        # b (ulysses heads) n d -> ulysses b n heads d
        sent = tokens.unflatten(1, (ranks, -1)).permute(1, 0, 3, 2, 4).contiguous()
        sending = self._mesh.all_to_all(sent, "ulysses")

        def arrived() -> Tensor:
            (parts,) = sending.wait()
            # ulysses b n heads d -> b heads (ulysses n) d, a view where batch is 1
            return parts.permute(1, 3, 0, 2, 4).flatten(2, 3)

        return arrived

    def by_tokens(self, attended: Tensor) -> Tensor:
        """Reverse ``by_heads``: ``[batch, heads / ulysses, ulysses · n, d]`` to ``[batch, heads, n, d]``."""
        ranks = self._mesh.plan.ulysses
        if ranks == 1:
            return attended
        # b heads (ulysses n) d -> ulysses b n heads d
        sent = attended.unflatten(2, (ranks, -1)).permute(2, 0, 3, 1, 4).contiguous()
        (parts,) = self._mesh.all_to_all(sent, "ulysses").wait()
        # ulysses b n heads d -> b (ulysses heads) n d
        return parts.permute(1, 0, 3, 2, 4).flatten(1, 2)

    def attention(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend to all tokens of the video, from the results of ``by_heads``."""
        if (ranks := self._mesh.plan.ring) > 1:
            here = self._mesh.index("ring")
            own = queries, self._unpadded(keys, here), self._unpadded(values, here)
            counts = [self.rows * self._real(part) for part in range(ranks)]
            if self._kernel in OF_8_BITS:
                return ring_attention_in_8_bits(self._mesh, *own, counts, OF_8_BITS[self._kernel])
            return ring_attention(self._mesh, *own, counts, WITH_LOGS[self._kernel])
        if self._order is not None:
            return self._dealt(self._kernel(*map(self._ordered, (queries, keys, values))))
        return self._kernel(queries, self._unpadded(keys, 0), self._unpadded(values, 0))

    def _unpadded(self, tokens: Tensor, ring_part: int) -> Tensor:
        """Cut the padding out of the keys or values of a ring part, ``[batch, heads, ulysses · n, d]``.

        Only slices: to ask the device which tokens are padding would wait for it in every block.
        """
        if not self._padded:
            return tokens
        ranks = self._mesh.plan.ulysses
        full, rest = divmod(self._real(ring_part), self._tokens)
        # b heads (ulysses rows n) d -> b heads ulysses rows n d; every row ends on the same rank
        parts = tokens.unflatten(2, (ranks, self.rows, self._tokens))
        whole: Tensor = parts[:, :, :full].flatten(2, 4)
        if rest == 0:
            return whole
        return torch.cat([whole, parts[:, :, full, :, :rest].flatten(2, 3)], dim=2)

    def _real(self, ring_part: int) -> int:
        """Return the number of a row's tokens in a ring part, without padding."""
        most = self._mesh.plan.ulysses * self._tokens
        return min(max(self._row_tokens - ring_part * most, 0), most)

    def _ordered(self, tokens: Tensor) -> Tensor:
        """Put the tokens of all Ulysses ranks in their order, without padding: ``[batch, heads, ulysses · n,
        d]`` to ``[batch, heads, tokens, d]``. A view unless rows are shared out.
        """
        # b heads (ulysses rows n) d -> b heads rows (ulysses n) d
        parts = tokens.unflatten(2, (self._mesh.plan.ulysses, self.rows, self._tokens)).transpose(2, 3)
        ordered: Tensor = parts.flatten(3, 4)[:, :, :, : self._row_tokens].flatten(2, 3)
        return ordered

    def _dealt(self, tokens: Tensor) -> Tensor:
        """Reverse ``_ordered``, with zeros for padding."""
        ranks = self._mesh.plan.ulysses
        rows = tokens.unflatten(2, (self.rows, self._row_tokens))
        if self._padded:
            rows = F.pad(rows, (0, 0, 0, ranks * self._tokens - self._row_tokens))
        dealt: Tensor = rows.unflatten(3, (ranks, self._tokens)).transpose(2, 3).flatten(2, 4)
        return dealt
