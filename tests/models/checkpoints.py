"""Checkpoints of every variant in the layout they are published in, with small random weights.

A checkpoint follows from the variant's entry, so a folder and its entry cannot differ by mistake.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)
from PIL import Image
from torch import nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    UMT5Config,
    UMT5EncoderModel,
)

from models.demo.vocabulary import build_tokenizer
from models.engine import EngineSettings, GenerationRequest
from models.loading import load_engine
from models.variants import VARIANTS, Variant

from .conftest import Model

CLIP = CLIPVisionConfig(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=2,
    image_size=224,
    patch_size=14,
)
"""A picture encoder with the published picture size and patches: 257 tokens."""


def small(name: str) -> Variant:
    """Return the entry with few layers and heads."""
    variant = VARIANTS[name]
    if variant.control_blocks:  # beside every other block
        return replace(variant, layers=4, heads=2, control_blocks=2)
    return replace(variant, layers=2, heads=2)


def save_checkpoint(variant: Variant, folder: Path) -> None:
    torch.manual_seed(11)
    tokenizer = build_tokenizer()
    text_encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=len(tokenizer), d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2)
    )
    parts: dict[str, Any] = {
        "tokenizer": tokenizer,
        "text_encoder": randomised(text_encoder),
        "vae": vae(variant),
        "scheduler": UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=variant.flow_shift
        ),
        "transformer": transformer(variant),
        "boundary_ratio": variant.boundary,
    }
    if variant.boundary is not None:
        parts["transformer_2"] = transformer(variant)
    if variant.image_tokens:
        parts["image_encoder"] = randomised(CLIPVisionModel(CLIP))
        parts["image_processor"] = CLIPImageProcessorPil()
    if not variant.control_blocks:
        parts["expand_timesteps"] = variant.expand_timesteps
    pipeline_of(variant)(**parts).save_pretrained(folder, safe_serialization=True)


def pipeline_of(variant: Variant) -> Any:
    """Return diffusers' pipeline with which a variant is published."""
    if variant.control_blocks:
        return WanVACEPipeline
    return WanPipeline if "t2v" in variant.tasks else WanImageToVideoPipeline


def transformer(variant: Variant) -> Any:
    branch: dict[str, Any] = {}
    if variant.control_blocks:
        layers = range(0, variant.layers, variant.layers // variant.control_blocks)
        branch = {"vace_layers": list(layers), "vace_in_channels": variant.control_channels}
    model = randomised(
        (WanVACETransformer3DModel if branch else WanTransformer3DModel)(
            **branch,
            num_attention_heads=variant.heads,
            attention_head_dim=24,
            in_channels=variant.input_channels,
            out_channels=variant.latent_channels,
            text_dim=32,
            freq_dim=32,
            ffn_dim=96,
            num_layers=variant.layers,
            image_dim=CLIP.hidden_size if variant.image_tokens else None,
            added_kv_proj_dim=24 * variant.heads if variant.image_tokens else None,
            pos_embed_seq_len=variant.image_tokens if "i2v" not in variant.tasks else None,
        )
    )
    with torch.no_grad():  # what a prompt or a picture changes is to be more than the tolerance
        model.patch_embedding.weight.mul_(4.0)
        for block in [*model.blocks, *getattr(model, "vace_blocks", [])]:
            block.attn2.to_out[0].weight.mul_(10.0)
        if branch:
            model.vace_patch_embedding.weight.mul_(8.0)
            for block in model.vace_blocks:
                block.proj_out.weight.mul_(4.0)
    return model


def vae(variant: Variant) -> Any:
    """Make a VAE whose signals keep their size on the way, so that a picture shows in its latents."""
    form: dict[str, Any] = {}
    if variant.spatial_stride == 16:  # the one of Wan 2.2, which takes patches of pixels
        form = {
            "is_residual": True,
            "in_channels": 12,
            "out_channels": 12,
            "patch_size": 2,
            "scale_factor_spatial": 16,
            "temperal_downsample": [False, True, True],
            "latents_mean": [0.1] * variant.latent_channels,
            "latents_std": [1.5] * variant.latent_channels,
        }
    model = AutoencoderKLWan(base_dim=8, z_dim=variant.latent_channels, num_res_blocks=1, **form)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    return model.eval()


def base_folders(root: Path) -> Callable[[Variant], Path]:
    """The folder of a base variant, made below ``root`` when it is first asked for."""

    def folder(variant: Variant) -> Path:
        path = root / variant.name.removesuffix("-distill")
        if not path.exists():
            save_checkpoint(variant, path)
        return path

    return folder


def edit(file: Path, **changes: Any) -> None:
    """Change some keys of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def randomised(model: Any) -> Any:
    """Randomise biases, gains and tables, which start at zero or one: a part left out then shows."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2 or "table" in name or "pos_embed" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def load_checkpoint(variant: Variant, folder: Path) -> Model:
    """Load the folder with our loader and with diffusers."""
    engine = load_engine(EngineSettings(variant, folder))
    pipeline = pipeline_of(variant).from_pretrained(folder, local_files_only=True)
    scheduler = FourStepScheduler(shift=variant.flow_shift) if variant.distilled else None
    model = VaceModel if variant.control_blocks else Model
    return model(engine, engine.parts.text, pipeline, scheduler)


class VaceModel(Model):
    """A VACE model: diffusers' pipeline takes a video and a mask of its parts to be changed."""

    def pictures(self, request: GenerationRequest) -> tuple[Any, dict[str, Any]]:
        given: dict[str, Any] = {"conditioning_scale": request.control_scale}
        if request.references:
            given["reference_images"] = [Image.fromarray(picture) for picture in request.references]
        video = torch.full((request.num_frames, 3, request.height, request.width), 0.5)  # gray
        mask = torch.ones_like(video)
        for picture, frame in ((request.image, 0), (request.last_image, -1)):
            if picture is not None:
                video[frame] = torch.from_numpy(picture).permute(2, 0, 1) / 255.0
                mask[frame] = 0.0
        if request.video is not None:
            video = torch.from_numpy(request.video).permute(0, 3, 1, 2) / 255.0
        if request.mask is not None:
            mask = torch.from_numpy(request.mask)[:, None].expand_as(video) / 255.0
        if request.image is not None or request.video is not None:
            given.update(video=[video], mask=[mask])
        return WanVACEPipeline, given


class FourStepScheduler(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """Diffusers' Euler solver at the noise levels that LightX2V distilled its models for."""

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        assert num_inference_steps == 4
        super().set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], device=device)
