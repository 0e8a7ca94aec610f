"""Makes the demo model's folder: the layout, classes and configuration of Wan2.2-TI2V-5B, very small.

The weights are random from a fixed seed, so the same seed gives the same folder byte for byte.
"""

import os
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

from models.demo.vocabulary import build_tokenizer

DEFAULT_SEED = 5
PROMPT_STRENGTH = 4.0
"""How much more than at random the prompt shows, so that two prompts are told apart at a glance."""


def make_demo_model(out: Path, seed: int = DEFAULT_SEED) -> bool:
    """Make the folder ``out`` unless it is there. Returns whether it was made.

    The folder appears whole or not at all, so that several processes may ask for it at once.
    """
    if (out / "model_index.json").is_file():
        return False
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        made = Path(temporary) / out.name
        build_pipeline(seed).save_pretrained(made, safe_serialization=True)
        shutil.rmtree(out, ignore_errors=True)  # a folder without an index is half a model
        try:
            os.rename(made, out)
        except OSError:
            if not (out / "model_index.json").is_file():
                raise
            return False  # another process was first
    return True


def build_pipeline(seed: int) -> WanPipeline:
    """The demo model in memory, float32."""
    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = WanTransformer3DModel(
            num_attention_heads=4,
            attention_head_dim=48,
            in_channels=16,
            out_channels=16,
            text_dim=128,
            freq_dim=256,
            ffn_dim=768,
            num_layers=6,
        )
        vae = AutoencoderKLWan(base_dim=16, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=1)
        text_encoder = UMT5EncoderModel(
            UMT5Config(
                vocab_size=len(tokenizer),
                d_model=128,
                d_kv=32,
                d_ff=256,
                num_layers=2,
                num_heads=4,
                dropout_rate=0.0,
            )
        )
        _enliven(transformer, vae, text_encoder)
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0, solver_order=2
    )
    return WanPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder.eval(),
        vae=vae.eval(),
        scheduler=scheduler,
        transformer=transformer.eval(),
        expand_timesteps=True,
    )


def _enliven(transformer: nn.Module, vae: nn.Module, text_encoder: UMT5EncoderModel) -> None:
    """Weights that keep signals at their size on the way, where diffusers' own would end in an even gray."""
    for layer in [*transformer.modules(), *vae.modules()]:
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=0.02)
    for layer in vae.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            _smooth(layer.weight)
    for name, parameter in transformer.named_parameters():
        if "attn2.to_out.0.weight" in name:  # the way in which a prompt shows
            parameter.data.mul_(PROMPT_STRENGTH)
    nn.init.normal_(text_encoder.shared.weight, std=1.0)


def _smooth(weight: torch.Tensor) -> None:
    """Give each pair of channels one weight, spread like a blur: pictures become clouds instead of noise."""
    spread = torch.ones(())
    for size in weight.shape[2:]:
        # time comes first in a 3D kernel; it looks back only, so what is now has to weigh the most
        in_time = weight.ndim == 5 and spread.ndim == 0
        taps = ([0.1, 0.2, 0.7] if in_time else [0.25, 0.5, 0.25]) if size == 3 else [1.0]
        spread = spread[..., None] * torch.tensor(taps)
    pairs = torch.randn(weight.shape[:2]) * weight.shape[1] ** -0.5
    weight.data.copy_(pairs.reshape(*pairs.shape, *[1] * spread.ndim) * spread)
