"""The parts of an engine: the networks of one model on its device, ready to run."""

from dataclasses import dataclass, field

from models.conditioning.image_encoder import ImageEncoder
from models.conditioning.text_encoder import Text
from models.lora.cache import LoraCache
from models.transformer.denoiser import Denoiser
from models.vae.streaming_vae import StreamingVae


@dataclass(frozen=True, slots=True)
class Parts:
    """Networks of a ``WanEngine``. In a group, every rank has its own."""

    text: Text
    denoiser: Denoiser
    """The only expert, or the high-noise expert."""
    vae: StreamingVae
    low_noise: Denoiser | None = None
    """The low-noise expert of a model with two experts."""
    image_encoder: ImageEncoder | None = None
    """The CLIP encoder of a model whose blocks attend to image tokens."""
    loras: LoraCache = field(default_factory=LoraCache)

    @property
    def denoisers(self) -> tuple[Denoiser, ...]:
        """The denoisers of one or two experts, high noise first."""
        return (self.denoiser,) if self.low_noise is None else (self.denoiser, self.low_noise)
