"""Small random models in the real classes, and diffusers' own pipelines on them as the reference."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from PIL import Image
from transformers import UMT5Config, UMT5EncoderModel

from models.conditioning.text_encoder import Text, TextEncoder
from models.demo.vocabulary import build_tokenizer
from models.engine import Frames, GenerationRequest
from models.generate import generate
from models.limits import BATCHED_TOKENS
from models.parallel.mesh import Mesh
from models.pipeline.generation import WanGeneration
from models.pipeline.parts import Parts
from models.pipeline.wan_engine import WanEngine
from models.transformer.denoiser import Denoiser
from models.vae.streaming_vae import StreamingVae
from models.variants import Variant
from testbed.text_encoders import own_text_encoder

# These models are too small for a second thread to pay, and a busy machine makes it wait at every barrier.
torch.set_num_threads(1)

SMALL = Variant(
    name="small",
    tasks=frozenset({"t2v", "i2v"}),
    width=112,
    height=64,
    num_frames=81,
    fps=16,
    steps=12,
    flow_shift=5.0,
    guidance_scale=4.0,
    max_area=128 * 64,
    max_frames=161,
    expand_timesteps=True,
    layers=2,
    heads=2,
    head_dim=24,
    ffn_dim=96,
    text_dim=32,
    vae_dim=8,
    vae_encoder_dim=8,
    vae_blocks=1,
)
"""The variant of the models that ``build_model`` makes: with the VAE of Wan 2.1, unlike the demo model's."""

REQUEST = GenerationRequest(
    prompt="a red cat runs on the beach",
    negative_prompt="模糊, blurry",
    width=80,
    height=48,
    num_frames=9,
    fps=16,
    steps=4,
    guidance_scale=4.0,
    flow_shift=5.0,
    seed=3,
)

DEMO_REQUEST = replace(REQUEST, width=64, height=32)
"""A request of a size that the demo model makes too."""

DEMO_WEIGHTS = Path(__file__).resolve().parents[2] / "models" / "demo" / "weights"


def picture(width: int, height: int, seed: int = 0) -> Frames:
    return np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)


def remade(
    engine: WanEngine,
    *,
    variant: Variant | None = None,
    batched_tokens: int = BATCHED_TOKENS,
    cache_threshold: float = 0.0,
    exact_steps: float = 0.0,
    unguided_steps: float = 0.0,
    low_resolution_steps: float = 0.0,
    **parts: Any,
) -> WanEngine:
    """Make another engine on the weights of ``engine``, with the given parts and settings."""
    return WanEngine(
        variant or engine.variant,
        replace(engine.parts, **parts),
        batched_tokens=batched_tokens,
        cache_threshold=cache_threshold,
        exact_steps=exact_steps,
        unguided_steps=unguided_steps,
        low_resolution_steps=low_resolution_steps,
    )


@dataclass(frozen=True)
class Model:
    """A set of weights, as our engine and as diffusers' pipelines."""

    engine: WanEngine
    text: Text
    pipeline: Any
    scheduler: Any = None
    """Diffusers' scheduler in place of its default, UniPC."""

    def run(self, request: GenerationRequest) -> WanGeneration:
        """Take all steps of a request."""
        generation = self.engine.prepare(request)
        while generation.step < generation.total_steps:
            self.engine.denoise_step(generation)
        return generation

    def latents(self, request: GenerationRequest) -> torch.Tensor:
        return self.run(request).latents

    def frames(self, request: GenerationRequest) -> Frames:
        return np.concatenate(list(generate(self.engine, request)))

    def latents_and_frames(self, request: GenerationRequest) -> tuple[torch.Tensor, Frames]:
        """Make both in one run of one fragment."""
        generation = self.run(request)
        return generation.latents, np.concatenate(list(self.engine.decode(generation)))

    def references(self, request: GenerationRequest) -> tuple[torch.Tensor, Any]:
        """Run the request with diffusers: latents, and frames as floats 0 … 1."""
        if self.pipeline.config.get("expand_timesteps") and request.image is not None:
            # after the last step the pipeline puts the picture back, where no callback sees it
            return self.reference(request, "latent"), self.reference(request, "np")
        latents: list[torch.Tensor] = []

        def see(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            latents[:] = [tensors["latents"]]
            return {}

        frames = self.reference(request, "np", callback_on_step_end=see)
        return latents[0], frames

    def reference(self, request: GenerationRequest, output: str, **options: Any) -> Any:
        """Run the request with diffusers: latents (``latent``) or frames as floats 0 … 1 (``np``)."""
        parts = dict(self.pipeline.components)
        parts["scheduler"] = self.scheduler or UniPCMultistepScheduler.from_config(
            self.pipeline.scheduler.config, flow_shift=request.flow_shift
        )
        parts["boundary_ratio"] = self.pipeline.config.boundary_ratio
        if self.pipeline.config.get("expand_timesteps"):
            parts["expand_timesteps"] = True
        cls, pictures = self.pictures(request)
        pipeline = cls(**parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline(
            **pictures,
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            width=request.width,
            height=request.height,
            num_frames=request.num_frames,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            guidance_scale_2=request.guidance_scale_2,
            generator=torch.Generator("cpu").manual_seed(request.seed),
            output_type=output,
            **options,
        ).frames

    def pictures(self, request: GenerationRequest) -> tuple[Any, dict[str, Any]]:
        """Return diffusers' pipeline for the given pictures, and its arguments for them."""
        images = {
            name: Image.fromarray(image)
            for name, image in (("image", request.image), ("last_image", request.last_image))
            if image is not None
        }
        if not images:
            return WanPipeline, images
        sees_both = self.pipeline.transformer.config.pos_embed_seq_len is not None
        return (WanImageToVideoPipeline if sees_both else FirstFrameSeen), images


class FirstFrameSeen(WanImageToVideoPipeline):  # type: ignore[misc]  # diffusers has no types
    """diffusers' pipeline as VideoX-Fun runs its models: CLIP sees the first frame alone."""

    def encode_image(self, image: Any, device: Any = None) -> Any:
        return super().encode_image(image[0] if isinstance(image, list) else image, device)


def build_model(
    *, expand_timesteps: bool, distilled: bool = False, heads: int = 2, mesh: Mesh | None = None
) -> Model:
    torch.manual_seed(11)
    tokenizer = build_tokenizer()
    transformer = WanTransformer3DModel(
        num_attention_heads=heads, attention_head_dim=24, text_dim=32, freq_dim=32, ffn_dim=96, num_layers=2
    )
    vae = AutoencoderKLWan(base_dim=8, z_dim=16, num_res_blocks=1)
    text_encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=len(tokenizer), d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2)
    )
    with torch.no_grad():
        for name, parameter in [*transformer.named_parameters(), *text_encoder.named_parameters()]:
            # biases and tables start at zero or at one: random ones show when a part is left out
            if parameter.ndim < 2 or "table" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    pipeline = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder.eval(),
        vae=vae.eval(),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
        transformer=transformer.eval(),
        expand_timesteps=expand_timesteps,
    )
    variant = replace(SMALL, expand_timesteps=expand_timesteps, distilled=distilled)
    text = TextEncoder(tokenizer.backend_tokenizer, own_text_encoder(text_encoder))
    parts = Parts(text, Denoiser(transformer, mesh), StreamingVae(vae, mesh=mesh))
    return Model(WanEngine(variant, parts), text, pipeline)


@pytest.fixture(scope="session")
def plain_model() -> Model:
    """A model with one timestep for the whole video, as in Wan 2.1."""
    return build_model(expand_timesteps=False)


@pytest.fixture(scope="session")
def expanding_model() -> Model:
    """A model with a timestep per token, as in Wan2.2-TI2V-5B; takes an image."""
    return build_model(expand_timesteps=True)


@pytest.fixture(scope="session")
def demo_weights() -> Path:
    """The weights that come with the project, to be read only."""
    return DEMO_WEIGHTS
