"""The demo model's untrained parts: the classes and the layout of Wan2.2-TI2V-5B, very small."""

from pathlib import Path
from typing import Any

from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from models.demo.vocabulary import build_tokenizer
from models.variants import VARIANTS

_DEMO = VARIANTS["demo"]


def build_vae() -> AutoencoderKLWan:
    """Build a VAE with random weights: 16 x 16 pixels of four frames per latent pixel."""
    z, side = _DEMO.latent_channels, 2
    return AutoencoderKLWan(
        base_dim=_DEMO.vae_encoder_dim,
        decoder_base_dim=_DEMO.vae_dim,
        z_dim=z,
        num_res_blocks=_DEMO.vae_blocks,
        latents_mean=[0.0] * z,
        latents_std=[1.0] * z,
        is_residual=True,
        in_channels=3 * side**2,
        out_channels=3 * side**2,
        patch_size=side,
        scale_factor_spatial=_DEMO.spatial_stride,
    )


def build_transformer() -> WanTransformer3DModel:
    """Build a transformer with random weights."""
    return WanTransformer3DModel(
        num_attention_heads=_DEMO.heads,
        attention_head_dim=_DEMO.head_dim,
        in_channels=_DEMO.latent_channels,
        out_channels=_DEMO.latent_channels,
        text_dim=_DEMO.text_dim,
        freq_dim=256,
        ffn_dim=_DEMO.ffn_dim,
        num_layers=_DEMO.layers,
    )


def build_text_encoder() -> UMT5EncoderModel:
    """Build a text encoder with random weights for the tokenizer of ``models.demo.vocabulary``."""
    config = UMT5Config(
        vocab_size=len(build_tokenizer()),
        d_model=_DEMO.text_dim,
        d_kv=32,
        d_ff=256,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
    )
    return UMT5EncoderModel(config)


def loaded(folder: Path) -> tuple[AutoencoderKLWan, WanTransformer3DModel, UMT5EncoderModel]:
    """Load VAE, transformer and text encoder from a folder that ``assembled`` wrote."""
    return (
        AutoencoderKLWan.from_pretrained(folder / "vae", local_files_only=True),
        WanTransformer3DModel.from_pretrained(folder / "transformer", local_files_only=True),
        UMT5EncoderModel.from_pretrained(folder / "text_encoder", local_files_only=True),
    )


def assembled(vae: Any, transformer: Any, text_encoder: Any) -> WanPipeline:
    """Assemble the parts into diffusers' pipeline, which writes the folder that every loader of Wan models
    reads.
    """
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=_DEMO.flow_shift,
        solver_order=2,
    )
    return WanPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=text_encoder.eval(),
        vae=vae.eval(),
        scheduler=scheduler,
        transformer=transformer.eval(),
        expand_timesteps=True,
    )
