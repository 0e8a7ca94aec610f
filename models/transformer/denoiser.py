"""A forward pass over the modules of diffusers' ``WanTransformer3DModel`` with the same results for less
work.

Computed once per run instead of once per step: text keys and values, and the rotary table. Computed once per
row instead of once per token: the timestep embedding, where all tokens of a latent frame, or of the whole
video, share one timestep.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from models.attention.approximation import Approximation
from models.attention.cross_attention import ImageKeys, TextKeys, image_keys, text_keys
from models.attention.kernels import AttentionKernel, sdpa
from models.attention.shard import Shard
from models.attention.token_order import neighbourhood_order
from models.kernels.operations import Modulation
from models.limits import TEXT_TOKENS
from models.parallel.mesh import Mesh
from models.transformer.block import BlockParts, blocks_in_order, run_block, uncompiled_parts
from models.transformer.block_weights import BlockWeights, Resident
from models.transformer.step_cache import StepCache

RunBlock: TypeAlias = Callable[[int, Any, Tensor], Tensor]
"""Runs the block of a given number on tokens ``[batch, rows, n, dim]`` and returns the tokens after it."""


class Denoiser:
    """Predicts the velocity of noisy latents ``[1, channels, frames, height, width]``.

    In a group, every rank takes whole latents and returns whole velocities; in between it holds its shard of
    the tokens.
    """

    def __init__(
        self,
        transformer: Any,
        mesh: Mesh | None = None,
        *,
        attention: AttentionKernel = sdpa,
        approximation: Approximation | None = None,
        block_parts: BlockParts | None = None,
        weights: BlockWeights | None = None,
    ) -> None:
        """``attention``: the exact kernel of self-attention; ``approximation``: what takes its place in some
        blocks and steps, None for nothing.
        """
        self.mesh = mesh or Mesh()
        self.mesh.plan.check_heads(transformer.config.num_attention_heads)
        self.transformer = transformer
        self.attention = attention
        self.approximation = approximation
        self._exact_blocks = 0 if approximation is None else approximation.exact_blocks
        self.block_parts = block_parts or uncompiled_parts(self.mesh.plan)
        self._weights = weights or Resident(transformer.device)
        self._patch: tuple[int, int, int] = tuple(transformer.config.patch_size)
        self._dtype: torch.dtype = transformer.dtype
        self._blocks, self._control_positions = blocks_in_order(transformer)

    @property
    def device(self) -> torch.device:
        """Device of the computation."""
        return self._weights.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the computation."""
        return self._dtype

    def text(self, embeddings: Tensor) -> TextKeys:
        """Compute keys and values of one prompt, from its embeddings ``[n, text_dim]``."""
        self._weights.ready()
        embeddings = embeddings.to(self.device, self._dtype)
        missing = TEXT_TOKENS - embeddings.shape[0]
        # The zero vectors that pad a prompt to 512 tokens stay equal to each other in every layer, and the
        # model was trained to attend to them. In float32 one represents all; in lower precision its bias
        # would be rounded, and a bias also rules out a GPU's fastest kernels, so there all of them are kept.
        padding_tokens = min(missing, 1) if self._dtype == torch.float32 else missing
        padded = F.pad(embeddings, (0, 0, 0, padding_tokens))[None]
        tokens = self.transformer.condition_embedder.text_embedder(padded)
        padding_count = max(missing // max(padding_tokens, 1), 1)
        with self._weights.each(self._blocks) as blocks:
            return text_keys((block.attn2 for block in blocks), tokens, padding_count)

    def image(self, embeddings: Tensor) -> ImageKeys:
        """Compute keys and values of a run's images, from their embeddings ``[images, n, image_dim]``."""
        self._weights.ready()
        embedder = self.transformer.condition_embedder.image_embedder
        tokens = embedder(embeddings.to(self.device, self._dtype))  # [1, images · n, dim]
        with self._weights.each(self._blocks) as blocks:
            return image_keys((block.attn2 for block in blocks), tokens)

    def rotation(self, latents: Tensor) -> Tensor:
        """Compute the rotary table for latents of this shape: interleaved cosines and sines, float32 ``[1, 1,
        tokens, head_dim]``.
        """
        self._weights.ready()
        cos, sin = self.transformer.rope(latents)
        turns = torch.stack([cos[..., 0::2].float(), sin[..., 1::2].float()], dim=-1)
        return turns.flatten(-2).transpose(1, 2).contiguous()

    def __call__(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: TextKeys,
        rotation: Tensor,
        control: Tensor | None = None,
        control_scale: float = 1.0,
        cache: StepCache | None = None,
        *,
        exact: bool = False,
    ) -> Tensor:
        """Predict the velocity for each prompt of ``text``, ``[batch, channels, frames, height, width]``.

        ``timesteps``: one for the whole video ``[1]``, or one for each latent frame ``[frames]``.
        ``control``: input of the control blocks (VACE models only), ``[1, channels, frames, height, width]``
        of the latents' frames and size; ``control_scale``: factor on the control blocks' output.
        ``cache``: the run's step cache for ``text``; None runs every block. ``exact``: attend exactly in all
        blocks.
        """
        self._weights.ready()
        model = self.transformer
        # patchify, the convolution's stride being the patch: b c (f pf) (h ph) (w pw) -> b (f h w) dim
        tokens = model.patch_embedding(latents.to(self._dtype)).flatten(2).transpose(1, 2)
        # a row is the tokens that share one timestep: b (rows n) dim -> b rows n dim
        rows = timesteps.shape[0]
        x = tokens.unflatten(1, (rows, -1))
        exact_shard, shard = self._shards(latents, rows, exact)
        x = shard.cut(x).contiguous()
        rotation = shard.cut(rotation.unflatten(2, (rows, -1))).flatten(2, 3)
        time, block_time = self._embed_time(timesteps)

        def run(number: int, block: Any, x: Tensor) -> Tensor:
            own = exact_shard if number < self._exact_blocks else shard
            return run_block(self.block_parts, block, x, block_time, text.of_block(number), rotation, own)

        x = self._through_blocks(x, run, shard, control, control_scale, cache)
        shift, scale = (model.scale_shift_table + time[:, None]).chunk(2, dim=1)
        x = self.block_parts.operations.layer_norm(model.norm_out, x, Modulation(shift, scale))
        return self._unpatchify(shard.whole(model.proj_out(x)).flatten(1, 2), latents)

    def _shards(self, latents: Tensor, rows: int, exact: bool) -> tuple[Shard, Shard]:
        """Return this rank's shard as exact attention sees it, and as this pass's later blocks do."""
        frames, height, width = (
            size // patch for size, patch in zip(latents.shape[2:], self._patch, strict=True)
        )
        order = None
        if self.approximation is not None and self.approximation.in_order:
            order = neighbourhood_order(frames // rows, height, width, latents.device)
        row_tokens = frames * height * width // rows
        shard = Shard(self.mesh, rows, row_tokens, self.attention, order)
        if self.approximation is None or exact:
            return shard, shard
        return shard, Shard(self.mesh, rows, row_tokens, self.approximation.kernel, order)

    def _through_blocks(
        self,
        x: Tensor,
        run: RunBlock,
        shard: Shard,
        control: Tensor | None,
        control_scale: float,
        cache: StepCache | None,
    ) -> Tensor:
        with self._weights.each(self._blocks) as blocks:
            first = run(0, next(blocks), x)
            skipped_to = None if cache is None else cache.last(x, first, shard)
            if skipped_to is not None:
                return skipped_to
            last, controlled = first, None
            for number, block in enumerate(blocks, start=1):
                if number not in self._control_positions:
                    last = run(number, block, last)
                elif control is not None:
                    if controlled is None:
                        controlled = x + self._control_tokens(block, control, shard)
                    controlled = run(number, block, controlled)
                    last = last + block.proj_out(controlled) * control_scale
        if cache is not None:
            cache.remember(first, last)
        return last

    def _control_tokens(self, first: Any, control: Tensor, shard: Shard) -> Tensor:
        """Patchify and embed the control blocks' input with the first of them, and cut this rank's shard."""
        tokens = self.transformer.vace_patch_embedding(control.to(self._dtype)).flatten(2).transpose(1, 2)
        embedded: Tensor = first.proj_in(tokens)
        return shard.cut(embedded.unflatten(1, (shard.rows, -1)))

    def _embed_time(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Compute each row's timestep embedding ``[rows, dim]`` and its projection ``[rows, 6, dim]``."""
        embedder = self.transformer.condition_embedder
        sinusoids = embedder.timesteps_proj(timesteps)
        sinusoids = sinusoids.to(next(embedder.time_embedder.parameters()).dtype)
        time = embedder.time_embedder(sinusoids).to(self._dtype)
        return time, embedder.time_proj(embedder.act_fn(time)).unflatten(1, (6, -1))

    def _unpatchify(self, tokens: Tensor, latents: Tensor) -> Tensor:
        """Rearrange patch tokens ``[batch, n, patch · channels]`` into a video of the latents' shape."""
        _, _, frames, height, width = latents.shape
        p_t, p_h, p_w = self._patch
        grid = tokens.unflatten(1, (frames // p_t, height // p_h, width // p_w)).unflatten(
            -1, (p_t, p_h, p_w, -1)
        )
        # b (f h w) (pf ph pw c) -> b c (f pf) (h ph) (w pw)
        video: Tensor = grid.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
        return video
