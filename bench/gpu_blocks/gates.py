"""Gates: a form of the engine is timed only after its numbers were near those of diffusers in float32."""

from copy import deepcopy
from dataclasses import replace
from math import inf, log10

import torch
from torch import Tensor

from bench.gpu_blocks.bench import Bench
from models.attention.approximation import Approximation
from models.attention.sparse import block_tokens, kept_blocks
from models.kernels.block_sparse import block_sparse_in_plain_torch
from models.speed.fp8 import closeness
from models.transformer.denoiser import Denoiser
from models.tuning import Tuning
from models.vae.conv_form import eight_bit_form
from models.vae.streaming_vae import StreamingVae
from models.variants import VARIANTS, Variant
from testbed.random_engine import RandomModel

_SIXTEEN_BITS, _EIGHT_BITS, _DECODE_DB, _EIGHT_BIT_DB = 0.02, 0.1, 30.0, 30.0
"""Bounds on the relative error of a velocity (L2 norm), and on the ratio of signal to error of a decode."""
_SPARSITY = 0.5


def exact(bench: Bench) -> None:
    """Compare the engine as it is by default."""
    _velocity(bench, Tuning(), _SIXTEEN_BITS)


def compiled(bench: Bench) -> None:
    """Compare the compiled engine."""
    _velocity(bench, Tuning(compile=True), _SIXTEEN_BITS)


def fp8(bench: Bench) -> None:
    """Compare the engine with 8-bit layers."""
    _velocity(bench, Tuning(fp8=True), _EIGHT_BITS)


def flash3_fp8(bench: Bench) -> None:
    """Compare the engine with attention in 8 bits, in every block."""
    _velocity(bench, Tuning(attention="flash3_fp8", exact_steps=0.0, exact_blocks=0), _EIGHT_BITS)


def sparse(bench: Bench) -> None:
    """Compare the kernel of sparse attention with plain torch, in every block of the engine.

    Not with exact attention, since random weights have no blocks that matter less; of two that score nearly
    the same, the kernel and plain torch may keep different ones.
    """
    variant = _variant(bench)
    model = _model(variant, bench)
    model.cast(bench.dtype)
    frames, side = (5, 16) if bench.tiny else (9, 32)
    latents = torch.randn(1, variant.input_channels, frames, side, side, device=bench.device)
    timestep = torch.full((1,), 500.0, device=bench.device)
    with torch.inference_mode():
        own = model.engine(Tuning(sparsity=_SPARSITY, exact_steps=0.0, exact_blocks=0)).parts.denoiser
        plain = Approximation(_sparse_in_plain_torch, exact_blocks=0, in_order=True)
        other = Denoiser(own.transformer, approximation=plain, block_parts=own.block_parts)
        text, rotation = own.text(model.text.encode("")), own.rotation(latents)
        found, expected = (each(latents, timestep, text, rotation) for each in (own, other))
    _gate(bench, found, expected, _EIGHT_BITS)


def _sparse_in_plain_torch(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    size = block_tokens(keys.shape[2])
    kept = kept_blocks(queries, keys, size, _SPARSITY)
    return block_sparse_in_plain_torch(queries, keys, values, kept, size)


def decode(bench: Bench) -> None:
    """Compare a decode in the model's dtype, and one in float16, with one by diffusers in float32."""
    model = _model(_variant(bench), bench)
    latents, expected = _exact_decode(bench, model)
    with torch.inference_mode():
        in_float16 = StreamingVae(deepcopy(model.vae).to(torch.float16))
        decibels = _decibels(in_float16, latents, expected)
        bench.found("figure", "decode in float16, beside float32", decibels, "dB")
        model.cast(bench.dtype)
    bench.found("gate", "decode", _decibels(model.streaming_vae, latents, expected), "dB", wanted=_DECODE_DB)


def vae_fp8(bench: Bench) -> None:
    """Compare a decode with convolutions in 8 bits, by plain torch where there are no kernels, with one by
    diffusers in float32.
    """
    model = _model(_variant(bench), bench)
    latents, expected = _exact_decode(bench, model)
    with torch.inference_mode():
        model.cast(bench.dtype)
        vae = StreamingVae(model.vae, large=eight_bit_form(bench.device))
        bench.found("gate", "vae_fp8", _decibels(vae, latents, expected), "dB", wanted=_EIGHT_BIT_DB)


@torch.inference_mode()
def _exact_decode(bench: Bench, model: RandomModel) -> tuple[Tensor, Tensor]:
    """Return latents and their frames by diffusers, before the model is cast."""
    latents = torch.randn(1, model.variant.latent_channels, 3, 16, 16, device=bench.device)
    mean, deviation = model.streaming_vae.mean, model.streaming_vae.deviation
    frames = model.vae.decode(latents * deviation + mean, return_dict=False)[0][0].transpose(0, 1)
    return latents, frames


def _decibels(vae: StreamingVae, latents: Tensor, expected: Tensor) -> float:
    """Return the ratio of a decode's range to its error."""
    found = torch.cat(list(vae.decode(latents))).float()
    error = float((found - expected).square().mean())
    return 10 * log10(4.0 / error) if error else inf


def _velocity(bench: Bench, tuning: Tuning, bound: float) -> None:
    variant = _variant(bench)
    model = _model(variant, bench)
    latents = torch.randn(1, variant.input_channels, 5, 16, 16, device=bench.device)
    timestep = torch.full((1,), 500.0, device=bench.device)
    prompt = model.text.encode("").float()
    with torch.inference_mode():
        expected: Tensor = model.transformer(latents, timestep, prompt[None], return_dict=False)[0]
        model.cast(bench.dtype)
        denoiser = model.engine(tuning).parts.denoiser
        found = denoiser(latents, timestep, denoiser.text(prompt), denoiser.rotation(latents))
    _gate(bench, found, expected, bound)


def _gate(bench: Bench, found: Tensor, expected: Tensor, bound: float) -> None:
    error = closeness(found, expected)
    bench.found(
        "gate", bench.block.removeprefix("gate-"), error.error, "error", wanted=bound, note=str(error)
    )


def _variant(bench: Bench) -> Variant:
    """Return the 14B's widths with two layers."""
    variant = replace(VARIANTS["wan2.1-t2v-14b"], layers=2)
    if not bench.tiny:
        return variant
    return replace(variant, heads=2, ffn_dim=512, text_dim=64, vae_dim=8, vae_encoder_dim=8, vae_blocks=1)


def _model(variant: Variant, bench: Bench) -> RandomModel:
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return RandomModel(variant, bench.device, torch.float32)
