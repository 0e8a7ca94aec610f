"""Wan variants that can be served, as data. Imports no torch: the HTTP layer reads it too.

Sampling defaults, sizes and frame counts are those of the Wan repositories' own configurations
(Wan-Video/Wan2.1, Wan-Video/Wan2.2), of the Fun models those of aigc-apps/VideoX-Fun; the 4-step ones follow
LightX2V's distilled checkpoints.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, TypeAlias

from models.limits import MAX_REFERENCES

VideoKind: TypeAlias = Literal["t2v", "i2v", "flf2v"]
"""Kind of video by its inputs: text alone (t2v), a first frame (i2v), or a first and a last frame (flf2v)."""

WAN_NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，"
    "丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，"
    "静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
"""Negative prompt of Wan's own configurations, the same for every model of the family."""


PICTURE_TOKENS = 257
"""CLIP tokens of a picture: one for all of it, and 16 x 16 patches."""

_TAIL_FRAMES = 9
"""Overlap of fragments for a model that takes no first frame: three latent frames, about half a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A Wan model: its video kinds, defaults, limits and architecture.

    Sizes are in pixels. ``max_area`` limits ``width * height``. A request beyond ``max_area`` or
    ``max_frames`` is refused or shrunk with a note, by ``oversize``. ``distilled`` means few Euler steps with
    one forward each; ``expand_timesteps`` means that the model takes a timestep per token, and an image as a
    clean first latent frame (Wan2.2-TI2V-5B).
    """

    name: str
    tasks: frozenset[VideoKind]
    width: int
    height: int
    num_frames: int
    fps: int
    steps: int
    flow_shift: float
    guidance_scale: float
    guidance_scale_2: float | None = None
    """Guidance of the low-noise expert; None for a model with one expert."""
    negative_prompt: str = WAN_NEGATIVE_PROMPT
    example_prompts: tuple[str, ...] = ()
    """Example prompts of a model with a small vocabulary; empty for a model that takes any prompt."""
    vocabulary: frozenset[str] = frozenset()
    """Words that a model with a small vocabulary was trained on; empty for a model that takes any prompt."""
    size_multiple: int = 16
    max_area: int
    max_frames: int
    oversize: Literal["refuse", "shrink"] = "refuse"
    distilled: bool = False
    expand_timesteps: bool = False
    boundary: float | None = None
    """Noise level, 0 … 1, below which the low-noise expert takes over; None for a model with one expert. In a
    distilled model each expert takes half of the steps."""
    image_channels: bool = False
    """True if pictures are extra input channels: a mask of the given frames, and their latents."""
    image_tokens: int = 0
    """CLIP image tokens in cross-attention, of one picture or two; 0 without an image encoder."""
    control_blocks: int = 0
    """Control (VACE) blocks, which take a video to keep or to change and reference pictures."""
    max_references: int = 0
    """Largest number of reference pictures, which show subjects without being frames of the video."""
    layers: int
    """Transformer blocks."""
    heads: int
    """Attention heads of a block; the Ulysses degree must divide this number."""
    head_dim: int = 128
    ffn_dim: int
    """Hidden channels of the feed-forward network."""
    text_dim: int = 4096
    """Channels of a text embedding."""
    text_encoder_parameters: int = 5_680_910_336
    """Parameters of UMT5-XXL's encoder."""
    vae_dim: int = 96
    """Channels of the VAE's decoder at its highest resolution; multiples of it elsewhere."""
    vae_encoder_dim: int = 96
    vae_blocks: int = 2
    """Residual blocks of the VAE's encoder at each resolution; the decoder has one more."""
    latent_channels: int = 16
    temporal_stride: int = 4
    """Video frames per latent frame, except the first latent frame, which represents one."""
    spatial_stride: int = 8
    """Pixels per latent pixel, along each side."""
    patch: int = 2
    """Latent pixels per token, along each side."""

    @property
    def dim(self) -> int:
        """Channels of a token."""
        return self.heads * self.head_dim

    @property
    def input_channels(self) -> int:
        """Input channels of the transformer."""
        given = self.temporal_stride + self.latent_channels if self.image_channels else 0
        return self.latent_channels + given

    @property
    def embedded_pictures(self) -> int:
        """Pictures that cross-attention sees: none, the first frame, or the first and the last frame."""
        return self.image_tokens // PICTURE_TOKENS

    @property
    def control_channels(self) -> int:
        """Input channels of the control blocks (kept pixels, changed pixels, mask); 0 without them."""
        return 2 * self.latent_channels + self.spatial_stride**2 if self.control_blocks else 0

    def latent_frames(self, num_frames: int) -> int:
        """Return the number of latent frames of a video of ``num_frames`` = 4k + 1."""
        return (num_frames - 1) // self.temporal_stride + 1

    def overlap(self, num_frames: int) -> int:
        """Return the number of frames that a fragment of ``num_frames`` shares with the fragment before.

        A model that takes a first frame continues from one frame; another model from a few, which carry the
        motion.
        """
        if "i2v" in self.tasks:
            return 1
        return max(min(_TAIL_FRAMES, num_frames - self.temporal_stride), 1)

    def video_frames(self, num_frames: int, num_fragments: int) -> int:
        """Return the number of frames of a whole video of ``num_fragments`` fragments."""
        return num_frames + (num_fragments - 1) * (num_frames - self.overlap(num_frames))

    def tokens(self, width: int, height: int, num_frames: int) -> int:
        """Return the transformer's sequence length for a video of this size."""
        pixels_per_token = self.spatial_stride * self.patch
        return self.latent_frames(num_frames) * (height // pixels_per_token) * (width // pixels_per_token)


def _distilled(base: Variant) -> Variant:
    """Return the 4-step distilled form of a model: its own weights, shift 5, no guidance."""
    return replace(
        base,
        name=f"{base.name}-distill",
        distilled=True,
        steps=4,
        flow_shift=5.0,
        guidance_scale=1.0,
        guidance_scale_2=None if base.guidance_scale_2 is None else 1.0,
    )


_DEMO_WORDS = """
a and around background ball bigger black blue bouncing box circle down falling from getting gray
green growing is jumping larger left moving on orange purple red right rotating spinning square star
the to triangle turning up white yellow
"""

_DEMO = Variant(
    name="demo",
    tasks=frozenset({"t2v", "i2v"}),
    width=160,
    height=96,
    num_frames=25,
    fps=8,
    steps=20,
    flow_shift=3.0,
    guidance_scale=3.0,
    negative_prompt="",
    example_prompts=(
        "a red ball moving left to right on a blue background",
        "a yellow star growing on a black background",
        "a green square falling on a white background",
        "a purple ball bouncing on a gray background",
        "a blue triangle moving right to left on a white background",
    ),
    vocabulary=frozenset(_DEMO_WORDS.split()),
    size_multiple=32,
    max_area=192 * 96,  # so that a 16:9 request is shrunk to the size the model was trained on
    max_frames=25,
    oversize="shrink",
    expand_timesteps=True,
    layers=6,
    heads=4,
    head_dim=48,
    ffn_dim=768,
    text_dim=128,
    text_encoder_parameters=403_840,
    latent_channels=24,
    vae_dim=16,
    vae_encoder_dim=16,
    vae_blocks=1,
    spatial_stride=16,
)

_WAN21_T2V_1_3B = Variant(
    name="wan2.1-t2v-1.3b",
    tasks=frozenset({"t2v"}),
    width=832,
    height=480,
    num_frames=81,
    fps=16,
    steps=50,
    flow_shift=8.0,
    guidance_scale=6.0,
    max_area=832 * 480,
    max_frames=81,
    layers=30,
    heads=12,
    ffn_dim=8960,
)

_WAN21_T2V_14B = replace(
    _WAN21_T2V_1_3B,
    name="wan2.1-t2v-14b",
    flow_shift=5.0,
    guidance_scale=5.0,
    max_area=1280 * 720,
    layers=40,
    heads=40,
    ffn_dim=13824,
)

_WAN22_TI2V_5B = Variant(
    name="wan2.2-ti2v-5b",
    tasks=frozenset({"t2v", "i2v"}),
    width=1280,
    height=704,
    num_frames=121,
    fps=24,
    steps=50,
    flow_shift=5.0,
    guidance_scale=5.0,
    size_multiple=32,
    max_area=1280 * 704,
    max_frames=121,
    expand_timesteps=True,
    layers=30,
    heads=24,
    ffn_dim=14336,
    vae_dim=256,
    vae_encoder_dim=160,
    latent_channels=48,
    spatial_stride=16,
)

_WAN21_I2V_14B_480P = replace(
    _WAN21_T2V_14B,
    name="wan2.1-i2v-14b-480p",
    tasks=frozenset({"i2v"}),
    steps=40,
    flow_shift=3.0,
    max_area=832 * 480,
    image_channels=True,
    image_tokens=PICTURE_TOKENS,
)

_WAN21_I2V_14B_720P = replace(
    _WAN21_I2V_14B_480P,
    name="wan2.1-i2v-14b-720p",
    width=1280,
    height=720,
    flow_shift=5.0,
    max_area=1280 * 720,
)

_WAN21_FUN_INP_1_3B = replace(
    _WAN21_T2V_1_3B,
    name="wan2.1-fun-inp-1.3b",
    tasks=frozenset({"i2v", "flf2v"}),
    flow_shift=3.0,
    image_channels=True,
    image_tokens=PICTURE_TOKENS,
)

_WAN21_FLF2V_14B = replace(
    _WAN21_I2V_14B_720P,
    name="wan2.1-flf2v-14b",
    tasks=frozenset({"flf2v"}),
    steps=50,
    flow_shift=16.0,
    image_tokens=2 * PICTURE_TOKENS,
)

_WAN21_VACE_1_3B = replace(
    _WAN21_T2V_1_3B,
    name="wan2.1-vace-1.3b",
    tasks=frozenset({"t2v", "i2v", "flf2v"}),
    flow_shift=16.0,
    guidance_scale=5.0,
    control_blocks=15,
    max_references=MAX_REFERENCES,
)

_WAN21_VACE_14B = replace(
    _WAN21_VACE_1_3B,
    name="wan2.1-vace-14b",
    max_area=1280 * 720,
    layers=40,
    heads=40,
    ffn_dim=13824,
    control_blocks=8,
)

_WAN22_T2V_A14B = replace(
    _WAN21_T2V_14B,
    name="wan2.2-t2v-a14b",
    width=1280,
    height=720,
    steps=40,
    flow_shift=12.0,
    guidance_scale=4.0,
    guidance_scale_2=3.0,
    boundary=0.875,
)

_WAN22_VACE_FUN_A14B = replace(
    _WAN21_VACE_14B,
    name="wan2.2-vace-fun-a14b",
    flow_shift=12.0,
    guidance_scale_2=5.0,
    boundary=0.875,
)

_WAN22_I2V_A14B = replace(
    _WAN22_T2V_A14B,
    name="wan2.2-i2v-a14b",
    tasks=frozenset({"i2v", "flf2v"}),
    flow_shift=5.0,
    guidance_scale=3.5,
    guidance_scale_2=3.5,
    boundary=0.9,
    image_channels=True,
)

_BASES = (
    _DEMO,
    _WAN21_T2V_1_3B,
    _WAN21_T2V_14B,
    _WAN21_I2V_14B_480P,
    _WAN21_I2V_14B_720P,
    _WAN21_FUN_INP_1_3B,
    _WAN21_FLF2V_14B,
    _WAN21_VACE_1_3B,
    _WAN21_VACE_14B,
    _WAN22_T2V_A14B,
    _WAN22_I2V_A14B,
    _WAN22_VACE_FUN_A14B,
    _WAN22_TI2V_5B,
)

VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {variant.name: variant for base in _BASES for variant in (base, _distilled(base))}
)
"""Every variant by name. ``<name>-distill`` is the 4-step form of ``<name>``."""
