"""Models of any size with random weights, made where they are to run: a 14B takes seconds, and no file.

The cost of a step or a decode does not depend on the weights' values.
"""

from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel, WanVACETransformer3DModel
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch import Tensor

from models.conditioning.image_encoder import ImageEncoder
from models.conditioning.picture_processor import PictureProcessor
from models.conditioning.text_encoder import Text, TextEncoder
from models.demo.vocabulary import build_tokenizer
from models.errors import OutOfMemory
from models.memory.check import free_bytes
from models.memory.estimate import GB, KernelScratch, resident_weights
from models.networks.clip_vision import CLIPVision, CLIPVisionConfig
from models.networks.network import Network
from models.networks.transformer import WanTransformer
from models.networks.umt5 import UMT5Config, UMT5Encoder
from models.parallel.mesh import Mesh
from models.pipeline.parts import Parts
from models.pipeline.wan_engine import WanEngine
from models.speed.tuned_model import TunedModel
from models.tuning import Tuning
from models.vae.conv_form import eight_bit_form
from models.vae.streaming_vae import StreamingVae
from models.variants import Variant
from models.weights.arrival import Arrival
from models.weights.carrier import Carrier
from models.weights.module_dtypes import ModuleDtypes
from models.weights.transformer_shapes import IMAGE_DIM

_DEVIATION = 0.02
_PROMPT_TOKENS = 512
"""Text tokens that count: in bfloat16, fewer are padded to as many."""


class RandomModel:
    """A transformer and a VAE of diffusers' classes, CLIP if needed, and the engine on the same weights.

    A model of two experts has one here: at any time one works.
    """

    def __init__(
        self, variant: Variant, device: torch.device, dtype: torch.dtype, text_encoder: bool = False
    ) -> None:
        """Make the weights. Raises ``OutOfMemory`` where the device has too little memory."""
        self.variant = variant
        self.device = device
        self.dtype = dtype
        self.transformer = _typed(transformer_of(variant), dtype)
        with torch.device("meta"):
            vae = _typed(autoencoder_of(variant), dtype)
        encoder = _typed(umt5_of(variant), dtype) if text_encoder else None
        clip = _typed(clip_vision(), dtype) if variant.image_tokens else None
        self.elements = {
            part: sum(parameter.numel() for parameter in module.parameters())
            for part, module in (
                ("transformer", self.transformer),
                ("vae", vae),
                ("text_encoder", encoder),
                ("image_encoder", clip),
            )
            if module is not None
        }
        """Parameters of each part that is made."""
        self.weight_bytes = resident_weights(self.elements, dtype.itemsize, variant)
        free = free_bytes(device)
        if self.weight_bytes > free:
            raise OutOfMemory(f"needs {self.weight_bytes / GB:.0f} GB of {free / GB:.0f} GB that are free")
        _fill(self.transformer, device)
        self.vae = _fill(vae, device)
        self.streaming_vae = StreamingVae(self.vae)
        self.scratch = KernelScratch()
        """Scratch memory of the kernels of the engine that was made last."""
        self.text: Text = RandomText(variant, device, dtype)
        if encoder is not None:
            tokenizer = build_tokenizer().backend_tokenizer
            self.text = TextEncoder(tokenizer, _fill(encoder, device), cache_bytes=0)
        self.image_encoder = None if clip is None else ImageEncoder(PictureProcessor(), _fill(clip, device))

    def cast(self, dtype: torch.dtype) -> None:
        """Cast the weights of transformer and VAE in place."""
        self.dtype = dtype
        _typed(self.transformer, dtype)
        self.streaming_vae = StreamingVae(_typed(self.vae, dtype))

    def vae_of(self, tuning: Tuning) -> StreamingVae:
        """Return the VAE as the settings have it."""
        if not tuning.vae_fp8:
            return self.streaming_vae
        return StreamingVae(self.vae, large=eight_bit_form(self.device))

    def engine(self, tuning: Tuning) -> WanEngine:
        """Make the engine. Raises ``TuningError`` for settings that cannot work here; may change
        ``transformer``.
        """
        tuned = TunedModel(tuning, self.variant, self.device, self.dtype, Mesh())
        denoiser = tuned.denoiser(Arrival(self.transformer, self.dtype, Carrier(self.device)))
        self.scratch = tuned.scratch
        parts = Parts(self.text, denoiser, self.vae_of(tuning), image_encoder=self.image_encoder)
        return WanEngine(
            self.variant,
            parts,
            exact_steps=tuning.exact_steps,
            unguided_steps=tuning.unguided_steps,
            low_resolution_steps=tuning.low_resolution_steps,
            scratch=self.scratch,
        )


class RandomText:
    """An implementation of ``models.conditioning.text_encoder.Text`` without an encoder."""

    def __init__(self, variant: Variant, device: torch.device, dtype: torch.dtype) -> None:
        self._embeddings = torch.randn(_PROMPT_TOKENS, variant.text_dim, device=device, dtype=dtype)

    @property
    def evictions(self) -> int:
        """None: nothing is cached."""
        return 0

    def encode(self, prompt: str) -> Tensor:
        """Return the same random embeddings for every prompt: ``[512, text_dim]``."""
        return self._embeddings

    def cut_note(self, prompt: str, name: str) -> str | None:
        """Return None: every prompt has the same embeddings."""
        return None


def transformer_of(variant: Variant) -> Any:
    """Make diffusers' model of the published configuration on the meta device: it has no numbers yet."""
    branch: dict[str, Any] = {}
    if variant.control_blocks:
        layers = range(0, variant.layers, variant.layers // variant.control_blocks)
        branch = {"vace_layers": list(layers), "vace_in_channels": variant.control_channels}
    two_pictures = variant.image_tokens > 0 and "i2v" not in variant.tasks
    with torch.device("meta"):
        return (WanVACETransformer3DModel if branch else WanTransformer3DModel)(
            **branch,
            num_attention_heads=variant.heads,
            attention_head_dim=variant.head_dim,
            in_channels=variant.input_channels,
            out_channels=variant.latent_channels,
            text_dim=variant.text_dim,
            freq_dim=256,
            ffn_dim=variant.ffn_dim,
            num_layers=variant.layers,
            image_dim=IMAGE_DIM if variant.image_tokens else None,
            added_kv_proj_dim=variant.dim if variant.image_tokens else None,
            pos_embed_seq_len=variant.image_tokens if two_pictures else None,
        )


def autoencoder_of(variant: Variant) -> Any:
    """Make diffusers' VAE of the published configuration, but for the statistics of its latents."""
    form: dict[str, Any] = {}
    if variant.spatial_stride == 16:
        form = {
            "is_residual": True,
            "in_channels": 12,
            "out_channels": 12,
            "patch_size": 2,
            "scale_factor_spatial": 16,
            "latents_mean": [0.0] * variant.latent_channels,
            "latents_std": [1.0] * variant.latent_channels,
        }
    return AutoencoderKLWan(
        base_dim=variant.vae_encoder_dim,
        decoder_base_dim=variant.vae_dim,
        z_dim=variant.latent_channels,
        num_res_blocks=variant.vae_blocks,
        **form,
    )


def umt5_of(variant: Variant) -> UMT5Encoder:
    """Make the encoder of UMT5-XXL, or a small one for a variant of other embeddings, on the meta device."""
    small = variant.text_dim != 4096
    config = UMT5Config(
        vocab_size=2048 if small else 256384,
        d_model=variant.text_dim,
        d_kv=64,
        d_ff=variant.text_dim * 5 // 2,
        num_layers=2 if small else 24,
        num_heads=2 if small else 64,
    )
    with torch.device("meta"):
        return UMT5Encoder(config)


def clip_vision() -> CLIPVision:
    """Make the vision tower of CLIP ViT-H/14 on the meta device."""
    config = CLIPVisionConfig(
        hidden_size=IMAGE_DIM,
        intermediate_size=4 * IMAGE_DIM,
        num_hidden_layers=32,
        num_attention_heads=16,
        image_size=224,
        patch_size=14,
    )
    with torch.device("meta"):
        return CLIPVision(config)


def _typed(model: Any, dtype: torch.dtype) -> Any:
    """Cast the parameters as loading does: some of a transformer stay in float32."""
    network: type[Network] = WanTransformer if hasattr(model, "patch_embedding") else Network
    dtypes = ModuleDtypes(network, dtype)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtypes.of(name))
    return model.eval().requires_grad_(False)


def _fill(model: Any, device: torch.device) -> Any:
    """Give a model on the meta device its parameters."""
    model.to_empty(device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gamma") or parameter.ndim == 1:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                parameter.normal_(0.0, _DEVIATION)
    if hasattr(model, "rope"):  # a table that is computed, no parameter
        config = model.config
        model.rope = WanRotaryPosEmbed(
            config.attention_head_dim, tuple(config.patch_size), config.rope_max_seq_len
        ).to(device)
    return model
