"""Our forward pass over the modules of diffusers' ``WanTransformer3DModel``: the same numbers for less work.

What it does not do again: text keys and values and the rotary table, which are made once per run instead of
once per step, and the timestep embedding of every token, where all tokens of a latent frame, or of the whole
video, share one timestep.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.attention import ImageKeys, TextKeys, image_keys, self_attention, text_attention, text_keys
from models.mesh import Mesh
from models.shard import Shard
from models.text import MAX_TOKENS


class Denoiser:
    """Predicts the velocity of noisy latents ``[1, channels, frames, height, width]``.

    In a group every rank has whole latents and gives whole velocities; in between it has its shard of the
    tokens.
    """

    def __init__(self, transformer: Any, mesh: Mesh | None = None) -> None:
        self.mesh = mesh or Mesh()
        self.mesh.plan.check_heads(transformer.config.num_attention_heads)
        self._model = transformer
        self._patch: tuple[int, int, int] = tuple(transformer.config.patch_size)
        self._dtype: torch.dtype = transformer.dtype
        self._control_blocks: list[Any] = list(getattr(transformer, "vace_blocks", []))
        hinted = transformer.config.vace_layers if self._control_blocks else []
        self._control_block_at = {layer: index for index, layer in enumerate(hinted)}
        """The side branch's block that adds to what comes out of a block, for each that has one beside it."""

    @property
    def device(self) -> torch.device:
        device: torch.device = self._model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype

    def text(self, embeddings: Tensor) -> TextKeys:
        """Keys and values of one prompt, from its embeddings ``[n, text_dim]``."""
        embeddings = embeddings.to(self.device, self._dtype)
        missing = MAX_TOKENS - embeddings.shape[0]
        # The zero vectors that fill a prompt up to 512 tokens stay equal to each other in every layer, and
        # the model was trained to attend to them. In float32 one stands for all; in lower precision its bias
        # would be rounded, and a bias also rules out a GPU's fastest kernels, so there they are all kept.
        stand_ins = min(missing, 1) if self._dtype == torch.float32 else missing
        filled = F.pad(embeddings, (0, 0, 0, stand_ins))[None]
        tokens = self._model.condition_embedder.text_embedder(filled)
        attns = [block.attn2 for block in [*self._model.blocks, *self._control_blocks]]
        return text_keys(attns, tokens, filling=max(missing // max(stand_ins, 1), 1))

    def image(self, embeddings: Tensor) -> ImageKeys:
        """Keys and values of a run's pictures, from their embeddings ``[pictures, n, image_dim]``."""
        embedder = self._model.condition_embedder.image_embedder
        tokens = embedder(embeddings.to(self.device, self._dtype))  # [1, pictures · n, dim]
        # only models without a side branch attend to pictures
        return image_keys([block.attn2 for block in self._model.blocks], tokens)

    def rotation(self, latents: Tensor) -> Tensor:
        """The rotary table for latents of this shape, complex64 ``[1, 1, tokens, head_dim / 2]``."""
        cos, sin = self._model.rope(latents)
        return torch.complex(cos[..., 0::2].float(), sin[..., 1::2].float()).transpose(1, 2).contiguous()

    def __call__(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: TextKeys,
        rotation: Tensor,
        control: Tensor | None = None,
    ) -> Tensor:
        """The velocity for each prompt of ``text``, ``[batch, channels, frames, height, width]``.

        ``timesteps``: one for the whole video ``[1]``, or one for each latent frame ``[frames]``.
        ``control``: what the side branch of a model that has one reads, of the latents' frames and size.
        """
        model = self._model
        tokens = model.patch_embedding(latents.to(self._dtype)).flatten(2).transpose(1, 2)
        # [batch, rows, tokens of the row, dim]: a row is what shares one timestep
        rows = timesteps.shape[0]
        x = tokens.unflatten(1, (rows, -1))
        shard = Shard(self.mesh, rows, x.shape[2])
        x = shard.cut(x).contiguous()
        rotation = shard.cut(rotation.unflatten(2, (rows, -1))).flatten(2, 3)
        time, block_time = self._embed_time(timesteps)
        branch = None
        if control is not None:
            branch = x + shard.cut(self._control_tokens(control).unflatten(1, (rows, -1)))
        for index, block in enumerate(model.blocks):
            x = _block(block, index, x, block_time, text, rotation, shard)
            if branch is not None and index in self._control_block_at:
                branch, hint = self._control_step(index, branch, block_time, text, rotation, shard)
                x = x + hint
        shift, scale = (model.scale_shift_table + time[:, None]).chunk(2, dim=1)
        x = _modulated(model.norm_out, x, shift, scale)
        return self._unpatched(shard.whole(model.proj_out(x)).flatten(1, 2), latents)

    def _control_tokens(self, control: Tensor) -> Tensor:
        tokens = self._model.vace_patch_embedding(control.to(self._dtype)).flatten(2).transpose(1, 2)
        embedded: Tensor = self._control_blocks[0].proj_in(tokens)
        return embedded

    def _control_step(
        self, layer: int, branch: Tensor, time: Tensor, text: TextKeys, rotation: Tensor, shard: Shard
    ) -> tuple[Tensor, Tensor]:
        """The branch after its block beside ``layer``, and what that block adds to the video's tokens."""
        index = self._control_block_at[layer]
        block = self._control_blocks[index]
        branch = _block(block, len(self._model.blocks) + index, branch, time, text, rotation, shard)
        return branch, block.proj_out(branch)

    def _embed_time(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """For each row: the timestep's embedding ``[rows, dim]`` and its projection ``[rows, 6, dim]``."""
        embedder = self._model.condition_embedder
        waves = embedder.timesteps_proj(timesteps)
        waves = waves.to(next(embedder.time_embedder.parameters()).dtype)
        time = embedder.time_embedder(waves).to(self._dtype)
        return time, embedder.time_proj(embedder.act_fn(time)).unflatten(1, (6, -1))

    def _unpatched(self, tokens: Tensor, latents: Tensor) -> Tensor:
        _, _, frames, height, width = latents.shape
        p_t, p_h, p_w = self._patch
        grid = tokens.unflatten(1, (frames // p_t, height // p_h, width // p_w)).unflatten(
            -1, (p_t, p_h, p_w, -1)
        )
        # [batch, f, h, w, p_t, p_h, p_w, channels] → [batch, channels, f·p_t, h·p_h, w·p_w]
        video: Tensor = grid.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
        return video


def _block(
    block: Any, index: int, x: Tensor, time: Tensor, text: TextKeys, rotation: Tensor, shard: Shard
) -> Tensor:
    """One transformer block. ``x``: ``[batch, rows, n, dim]``; sums and modulation are float32, as trained.

    A batch of prompts shares one video up to the first text attention, which is where ``x`` takes its batch.
    """
    modulation = block.scale_shift_table + time.float()
    shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = modulation.chunk(6, dim=1)
    rows = x.shape[1]

    attending = _modulated(block.norm1, x, shift, scale).flatten(1, 2)
    attended = self_attention(block.attn1, attending, rotation, shard)
    x = torch.addcmul(x.float(), attended.unflatten(1, (rows, -1)), gate).type_as(x)

    queried = block.norm2(x.float()).type_as(x).flatten(1, 2)
    x = x + text_attention(block.attn2, queried, text, index).unflatten(1, (rows, -1))

    fed = block.ffn(_modulated(block.norm3, x, ffn_shift, ffn_scale))
    return torch.addcmul(x.float(), fed.float(), ffn_gate).type_as(x)


def _modulated(norm: Any, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``norm(x)·(1 + scale) + shift``; ``shift`` and ``scale`` are ``[rows, 1, dim]``."""
    return torch.addcmul(shift, norm(x.float()), 1 + scale).type_as(x)
