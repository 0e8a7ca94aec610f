"""One rank's part of the token sequence, and its self-attention over the whole of it.

Shapes: tokens ``[batch, rows, n, dim]``, where a row is what shares one timestep (the whole video, or a
latent frame); queries, keys and values ``[batch, heads, n, head_dim]``.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from models.attention.kernels import AttentionKernel, sdpa
from models.attention.ring import ring_attention
from models.parallel.mesh import Mesh


class Shard:
    """An equal part of every row, so that all ranks have the same rows and the same work.

    Attention among tokens knows no order (the rotary table travels with them), so the parts need not be one
    stretch of the sequence. A row that does not divide is filled up at its end; the filling is cut out of the
    keys before attention and out of the result.
    """

    def __init__(self, mesh: Mesh, rows: int, row_tokens: int, kernel: AttentionKernel = sdpa) -> None:
        """``kernel``: what attends, but in a ring, whose parts take one that tells how they merge."""
        parts = mesh.plan.sequence
        self._mesh = mesh
        self._kernel = kernel
        self.rows = rows
        self._row_tokens = row_tokens
        self._tokens = -(-row_tokens // parts)
        """Tokens of a row on one rank, the filling included."""
        self._filled = self._tokens * parts > row_tokens

    def cut(self, tokens: Tensor) -> Tensor:
        """This rank's part of whole rows, ``[..., rows, row tokens, dim]`` to ``[..., rows, n, dim]``."""
        if self._mesh.plan.sequence == 1:
            return tokens
        start = min(self._mesh.sequence_index * self._tokens, self._row_tokens)
        part = tokens[..., start : start + self._tokens, :]
        return F.pad(part, (0, 0, 0, self._tokens - part.shape[-2]))

    def own(self, tokens: Tensor) -> Tensor:
        """Of this rank's part what is no filling, ``[..., rows, n, dim]`` with n as many as are real."""
        real = self._row_tokens - self._mesh.sequence_index * self._tokens
        return tokens[..., : max(min(real, self._tokens), 0), :]

    def whole(self, tokens: Tensor) -> Tensor:
        """Whole rows from every rank's part, on all of them."""
        if self._mesh.plan.sequence == 1:
            return tokens
        parts = self._mesh.gathered(self._mesh.gathered(tokens, "ulysses"), "ring")
        # [ring, ulysses, batch, rows, n, dim] → [batch, rows, ring · ulysses · n, dim]
        return parts.flatten(0, 1).movedim(0, 2).flatten(2, 3)[..., : self._row_tokens, :]

    def by_heads(self, tokens: Tensor) -> Callable[[], Tensor]:
        """Start to exchange this rank's tokens of all heads for its ring part's tokens of its own heads.

        ``[batch, heads, n, d]`` to ``[batch, heads / ulysses, ulysses · n, d]``; the answer gives it.
        """
        ranks = self._mesh.plan.ulysses
        if ranks == 1:
            return lambda: tokens
        # [batch, ulysses, heads / ulysses, n, d] → [ulysses, batch, n, heads / ulysses, d]
        sent = tokens.unflatten(1, (ranks, -1)).permute(1, 0, 3, 2, 4).contiguous()
        sending = self._mesh.swapped(sent, "ulysses")

        def arrived() -> Tensor:
            (parts,) = sending.wait()
            return parts.permute(1, 3, 0, 2, 4).flatten(2, 3)  # a view where batch is 1

        return arrived

    def by_tokens(self, attended: Tensor) -> Tensor:
        """The way back: ``[batch, heads / ulysses, ulysses · n, d]`` to ``[batch, heads, n, d]``."""
        ranks = self._mesh.plan.ulysses
        if ranks == 1:
            return attended
        sent = attended.unflatten(2, (ranks, -1)).permute(2, 0, 3, 1, 4).contiguous()
        (parts,) = self._mesh.swapped(sent, "ulysses").wait()
        # [ulysses, batch, n, heads / ulysses, d] → [batch, ulysses, heads / ulysses, n, d]
        return parts.permute(1, 0, 3, 2, 4).flatten(1, 2)

    def attention(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention to all tokens of the video, once ``by_heads`` has brought them."""
        ring = self._mesh.plan.ring
        if ring > 1:
            kept = [self._kept(part, keys.device) for part in range(ring)]
            return ring_attention(self._mesh, queries, keys, values, kept)
        kept_keys = self._kept(0, keys.device)
        if kept_keys is not None:
            keys, values = keys.index_select(2, kept_keys), values.index_select(2, kept_keys)
        return self._kernel(queries, keys, values)

    def _kept(self, ring_part: int, device: torch.device) -> Tensor | None:
        """Which of the tokens of a ring part, in the order of ``by_heads``, are no filling; None for all."""
        if not self._filled:
            return None
        ranks = self._mesh.plan.ulysses
        first = ring_part * ranks * self._tokens
        places = first + torch.arange(ranks * self._tokens, device=device).view(ranks, 1, self._tokens)
        kept = (places < self._row_tokens).expand(ranks, self.rows, self._tokens)
        return kept.flatten().nonzero().flatten()
