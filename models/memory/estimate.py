"""Estimates of a model's and a request's device memory, computed from shapes. Imports no torch.

Counts the bytes alive on one device at the peak of ``models.transformer.denoiser``'s forward pass and of
``models.vae.streaming_vae``'s encode and decode. Shapes do not show the scratch memory of kernels: where it
matters it is measured, and passed in as ``KernelScratch``.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from models.engine import GenerationRequest
from models.limits import BATCHED_TOKENS, CHUNK_PIXELS, CHUNKS_AHEAD, CUDA_CHUNK_PIXELS, TEXT_TOKENS
from models.memory import vae_convolutions
from models.memory.vae_convolutions import Conv
from models.parallel.plan import ParallelPlan
from models.tuning import Offload
from models.variants import Variant
from models.weights.transformer_shapes import IMAGE_DIM

GB = 1e9

MARGIN = 1.15
"""Safety factor on the estimate of a run, which was measured to be up to an eighth too low."""

IMAGE_ENCODER_PARAMETERS = 630_766_080
"""Parameters of the vision tower of CLIP ViT-H/14."""

_TIME_SINUSOIDS = 256
"""Channels of a timestep's sinusoidal embedding."""
_FLOAT = 4
"""Bytes of a float32."""
_VIDEO_COPIES = 3
"""Copies of a video during its encoding: the request's, the chunk's frames, and the chunk compared with
it.
"""
_SOLVER_COPIES = 8
"""Latents, velocities and earlier predictions that a solver's step holds at once."""


def parameters(variant: Variant) -> Mapping[str, int]:
    """Count the parameters of each part, by its folder's name, without the VAE's norms (a thousandth)."""
    vae = sum(conv.parameters for walk in _WALKS for conv in walk(variant))
    parts = {
        "transformer": transformer_parameters(variant),
        "text_encoder": variant.text_encoder_parameters,
        "vae": vae,
    }
    if variant.boundary is not None:
        parts["transformer_2"] = parts["transformer"]
    if variant.image_tokens:
        parts["image_encoder"] = IMAGE_ENCODER_PARAMETERS
    return parts


_WALKS = (vae_convolutions.encoder, vae_convolutions.decoder)


def transformer_parameters(variant: Variant) -> int:
    """Count the parameters of one expert."""
    dim, patch = variant.dim, variant.patch**2
    embedders = (
        _linear(variant.input_channels * patch, dim)
        + _linear(_TIME_SINUSOIDS, dim)
        + _linear(dim, dim)
        + _linear(dim, 6 * dim)
        + _linear(variant.text_dim, dim)
        + _linear(dim, dim)
    )
    image, image_block = 0, 0
    if variant.image_tokens:
        image = _linear(IMAGE_DIM, IMAGE_DIM) + _linear(IMAGE_DIM, dim) + 2 * IMAGE_DIM + 2 * dim
        image_block = 2 * _linear(dim, dim) + dim
        if "i2v" not in variant.tasks:  # position embeddings that distinguish a first picture from a last one
            image += variant.image_tokens * IMAGE_DIM
    attentions = 8 * _linear(dim, dim) + 4 * dim
    feeding = _linear(dim, variant.ffn_dim) + _linear(variant.ffn_dim, dim)
    block = attentions + feeding + 2 * dim + 6 * dim
    branch = 0
    if variant.control_blocks:
        entry = _linear(variant.control_channels * patch, dim) + _linear(dim, dim)
        branch = entry + variant.control_blocks * (block + _linear(dim, dim))
    out = _linear(dim, variant.latent_channels * patch) + 2 * dim
    return embedders + image + variant.layers * (block + image_block) + branch + out


def _linear(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


def resident_weights(
    elements: Mapping[str, int],
    itemsize: int,
    variant: Variant,
    *,
    fp8: bool = False,
    offload: Offload = "none",
) -> int:
    """Return the peak bytes of weights on the device, also while they are loaded.

    ``elements``: count for each part, by the name of its folder.
    """
    sizes = {part: count * itemsize for part, count in elements.items()}
    transformers = [part for part in sizes if part.startswith("transformer")]
    if offload == "group":
        # at most three blocks at once; what lies outside the blocks is less than one block
        sizes |= {part: 3 * sizes[part] // variant.layers for part in transformers}
    if offload == "experts":
        return sum(sizes.values()) - min((sizes[part] for part in transformers), default=0)
    if offload != "none":
        return max(sizes.values(), default=0)
    if not fp8:
        return sum(sizes.values())
    blocks = variant.layers + variant.control_blocks
    saved = blocks * _saved_by_fp8(variant, itemsize)
    sizes |= {part: sizes[part] - saved for part in transformers}
    # the last block, and copies of its largest layer, before the parts that are loaded after the transformers
    quantising = _saved_by_fp8(variant, itemsize) + 2 * _FLOAT * variant.dim * max(
        variant.dim, variant.ffn_dim
    )
    return max(sum(sizes.values()), sum(sizes[part] for part in transformers) + quantising)


def _saved_by_fp8(variant: Variant, itemsize: int) -> int:
    """Return the bytes by which a block shrinks in fp8: a byte for each weight of its linear layers, and a
    float32 scale for each of their rows.
    """
    dim, ffn = variant.dim, variant.ffn_dim
    weights = 8 * dim**2 + 2 * dim * ffn
    rows = 8 * dim + ffn + dim
    return weights * (itemsize - 1) - rows * _FLOAT


@dataclass(frozen=True, slots=True)
class KernelScratch:
    """Scratch memory of kernels in bytes, besides operands and results, freed at the end of a call."""

    linear: float = 0.0
    """Bytes of a linear layer, per element of its result."""
    quantised: float = 0.0
    """Bytes of GELU's result together with its quantising, per element; 0 where it is not quantised."""
    fused: bool = False
    """The operations of a block make no float32 copies, and queries, keys and values are one product."""
    gelu_in_product: bool = False
    """The product before GELU applies it, so that its own result is never there."""
    eight_bit_heads: bool = False
    """Queries, keys and values are held in 8 bits as well while they attend."""
    eight_bit_volumes: bool = False
    """The VAE's two largest resolutions convolve in 8 bits."""
    volumes: bool = False
    """The VAE convolves volumes, in the large chunks of a CUDA device, and copies no past frames."""
    result: float = 0.0
    """Bytes of a convolution, per element of its result."""
    column: float = 0.0
    """Bytes of a convolution, per element of its unfolded input windows (im2col)."""


_NO_SCRATCH = KernelScratch()
"""Scratch memory on a GPU, and of float32 on a CPU."""


@dataclass(frozen=True, slots=True)
class WeightsGrowth:
    """Bytes by which the weights on the device will have grown by a stage of a run; below 0 where more leave
    than come.
    """

    encode: int = 0
    step: int = 0
    decode: int = 0


_ALL_THERE = WeightsGrowth()


@dataclass(frozen=True, slots=True)
class RequestMemory:
    """Bytes of a run besides the model's weights, on each device of its group."""

    text_keys: int
    """Keys and values of prompts and pictures, which stay for the whole run."""
    stacking: int
    """A second copy of ``text_keys``, while the prompts of a small video are stacked into one batch."""
    step: int
    decode: int
    encode: int
    """Encoding of the request's pictures or video; 0 without any."""

    @property
    def peak(self) -> int:
        """Bytes of the stage that takes the most."""
        return max(self.encode, self.text_keys + max(self.stacking, self.step, self.decode))

    def needed(self, growth: WeightsGrowth = _ALL_THERE) -> int:
        """Return the bytes that must be free before the run: the margin is in them, and weights that come."""
        return max(
            int(MARGIN * self.encode) + growth.encode,
            int(MARGIN * (self.text_keys + max(self.stacking, self.step))) + growth.step,
            int(MARGIN * (self.text_keys + self.decode)) + growth.decode,
        )


def request_memory(
    variant: Variant,
    request: GenerationRequest,
    itemsize: int,
    plan: ParallelPlan | None = None,
    scratch: KernelScratch = _NO_SCRATCH,
) -> RequestMemory:
    """Estimate the memory of a run. ``itemsize``: bytes of the model's dtype."""
    plan = plan or ParallelPlan()
    given = request.has_begin or variant.image_channels or variant.control_blocks > 0
    text_keys = _text_keys(variant, request, itemsize, plan)
    return RequestMemory(
        text_keys=text_keys,
        stacking=text_keys if _batch(variant, request, plan) > 1 else 0,
        step=_step(variant, request, itemsize, plan, scratch),
        decode=_walk(vae_convolutions.decoder(variant), variant, request, itemsize, scratch, plan.devices),
        encode=_encode(variant, request, itemsize, scratch) if given else 0,
    )


def most_frames(
    variant: Variant,
    request: GenerationRequest,
    itemsize: int,
    plan: ParallelPlan | None,
    free: int,
    scratch: KernelScratch = _NO_SCRATCH,
    growth: WeightsGrowth = _ALL_THERE,
) -> int | None:
    """Return the most frames, up to the request's, for which ``free`` bytes are enough; None for none."""

    def needed(latent_frames: int) -> int:
        fewer = replace(request, num_frames=variant.temporal_stride * (latent_frames - 1) + 1)
        return request_memory(variant, fewer, itemsize, plan, scratch).needed(growth)

    fitting = bisect_right(range(1, variant.latent_frames(request.num_frames) + 1), free, key=needed)
    return variant.temporal_stride * (fitting - 1) + 1 if fitting else None


def _text_keys(variant: Variant, request: GenerationRequest, itemsize: int, plan: ParallelPlan) -> int:
    blocks = variant.layers + variant.control_blocks
    text = _prompts(variant, request, plan) * blocks * TEXT_TOKENS
    return 2 * (text + variant.layers * variant.image_tokens) * variant.dim * itemsize


def _prompts(variant: Variant, request: GenerationRequest, plan: ParallelPlan) -> int:
    """Return the number of prompts that one device runs."""
    scales = request.guidance_scale, request.guidance_scale_2 or 0.0
    guided = not variant.distilled and max(scales) > 1
    return 2 // plan.cfg if guided else 1


def _batch(variant: Variant, request: GenerationRequest, plan: ParallelPlan) -> int:
    """Return the number of prompts in one forward pass."""
    # the same rule as in ``models.pipeline.wan_engine``, which does not count references either
    tokens = variant.tokens(request.width, request.height, request.num_frames)
    return _prompts(variant, request, plan) if tokens <= BATCHED_TOKENS else 1


def _step(
    variant: Variant, request: GenerationRequest, itemsize: int, plan: ParallelPlan, scratch: KernelScratch
) -> int:
    tokens = _tokens(variant, request)
    rows = _latent_frames(variant, request) if variant.expand_timesteps and request.has_begin else 1
    local = rows * -(-tokens // rows // plan.sequence)
    batch = _batch(variant, request, plan)
    activations = local * variant.dim * batch * _token_channel_bytes(variant, itemsize, plan, scratch)
    whole = 2 * tokens * variant.dim * itemsize  # the embedded latents, in two layouts, live until the end
    rotation = local * variant.head_dim * _FLOAT
    channels = _SOLVER_COPIES * variant.latent_channels + 2 * (
        variant.input_channels + variant.control_channels
    )
    latents = tokens * variant.patch**2 * channels * _FLOAT
    scratch_of_linear = batch * local * max(variant.dim, variant.ffn_dim) * scratch.linear
    return int(activations + scratch_of_linear) + whole + rotation + latents


def _token_channel_bytes(
    variant: Variant, itemsize: int, plan: ParallelPlan, scratch: KernelScratch
) -> float:
    """Return the bytes alive per channel of a token at a block's peak."""
    # f: bytes of a float32 copy, where one is made
    s, f = itemsize, _FLOAT if itemsize < _FLOAT and not scratch.fused else 0
    # the residual, its norm, one product of three inputs; queries and keys, rotated one by one unless fused
    queries = 7 * s + (0 if scratch.fused else f + _FLOAT)
    attending = 8 * s + 3 if scratch.eight_bit_heads else 0
    # keys sent and received, two results being merged; in 8 bits fewer, but not in the first steps
    ring = 10 * s + 3 * _FLOAT if plan.ring > 1 else 0
    # the widest tensor twice: before and after GELU
    before_gelu = 0 if scratch.gelu_in_product else s
    feeding = 4 * s + (before_gelu + (scratch.quantised or s)) * variant.ffn_dim / variant.dim
    adding = 6 * s + 2 * f + _FLOAT if f else 6 * s
    branch = 2 * s if variant.control_blocks else 0
    return max(queries, attending, ring, feeding, adding) + branch


def _encode(variant: Variant, request: GenerationRequest, itemsize: int, scratch: KernelScratch) -> int:
    pixels = request.width * request.height
    frames = request.num_frames if variant.image_channels or variant.control_blocks else 1
    if scratch.volumes:  # the request's frames stay in the host's memory
        frames = min(frames, max(CUDA_CHUNK_PIXELS // pixels, variant.temporal_stride))
    video = 3 * frames * pixels * itemsize
    convs = vae_convolutions.encoder(variant)
    # gray frames repeat, and are encoded one latent frame at a time
    moving = request.video is not None or request.tail is not None
    return _VIDEO_COPIES * video + _walk(convs, variant, request, itemsize, scratch, chunk=0 if moving else 1)


def _walk(
    convs: Iterable[Conv],
    variant: Variant,
    request: GenerationRequest,
    itemsize: int,
    scratch: KernelScratch,
    devices: int = 1,
    chunk: int = 0,
) -> int:
    """Return the bytes alive at the largest convolution, plus past frames kept between chunks."""
    height = request.height // variant.spatial_stride
    width = request.width // variant.spatial_stride
    pixels = height * width * variant.spatial_stride**2 * variant.temporal_stride
    limit = CUDA_CHUNK_PIXELS if scratch.volumes else CHUNK_PIXELS
    frames = variant.latent_frames(request.num_frames)
    of_a_chunk = min(chunk or max(limit // pixels, 1), frames)
    kept, begun, fullest = 0, 0, 0.0
    for conv in convs:
        latents = min(CHUNKS_AHEAD * of_a_chunk, frames) if conv.begins else of_a_chunk
        rows = -(-height // devices) if conv.strip and height >= devices else height
        picture = rows * width * conv.scale**2
        spared = conv.in_8_bits * (itemsize - 1) if scratch.eight_bit_volumes else 0
        earlier = (conv.taps - 1) * picture * (conv.inputs * itemsize - spared)
        kept += earlier
        columns = conv.inputs * conv.taps * conv.kernel**2
        if conv.begins:
            begun = 2 * latents * conv.outputs * picture * itemsize  # a sum that is still to be made
        own = conv.outputs * scratch.result + columns * scratch.column
        copies = 0 if scratch.volumes else _copies(conv, itemsize)
        # past frames are in a volume besides, and for a moment those before them are kept
        past = 2 * earlier if scratch.volumes else earlier
        # the first latent frame is one frame at any rate
        at_once = latents * conv.rate - (conv.rate - 1 if latents == frames else 0)
        alive = conv.alive * itemsize - spared
        fullest = max(fullest, at_once * picture * (alive + copies + own) + past)
    return kept + begun + int(fullest)


def _copies(conv: Conv, itemsize: int) -> int:
    """Return the bytes per output pixel of a CPU's copies of a convolution's input."""
    if conv.taps == 1:
        return 0
    # in 16 bits the norm before has two copies in float32, more than the input looked back on takes later
    norm = 2 * _FLOAT * conv.inputs if itemsize < _FLOAT else 0
    return max(conv.inputs * conv.taps * itemsize, norm)


def _latent_frames(variant: Variant, request: GenerationRequest) -> int:
    return len(request.references) + variant.latent_frames(request.num_frames)


def _tokens(variant: Variant, request: GenerationRequest) -> int:
    of_a_frame = variant.tokens(request.width, request.height, 1)
    return _latent_frames(variant, request) * of_a_frame
