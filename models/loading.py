"""Loading of a ready engine from weights: safetensors only, never pickles; only a hub model needs a
network.

Weights go straight from their files to their device: a host holds them only where they wait there.
"""

import json
import logging
from pathlib import Path

import torch
from tokenizers import Tokenizer

from models.conditioning.image_encoder import ImageEncoder
from models.conditioning.picture_processor import PictureProcessor
from models.conditioning.shared_text import SharedText
from models.conditioning.text_encoder import TextEncoder
from models.engine import EngineSettings
from models.errors import TuningError, WeightsError, first_line
from models.lora.cache import load_loras
from models.memory.check import check_weights, holds_originals
from models.networks.autoencoder import WanAutoencoder
from models.networks.clip_vision import CLIPVision
from models.networks.transformer import WanTransformer
from models.networks.umt5 import UMT5Encoder
from models.parallel.mesh import Mesh
from models.phases import Phases
from models.pipeline.parts import Parts
from models.pipeline.wan_engine import WanEngine
from models.speed.cuda_device import prepare
from models.speed.tuned_model import TunedModel
from models.tuning import Tuning
from models.vae.conv_form import eight_bit_form
from models.vae.streaming_vae import StreamingVae
from models.vae.tiles import Tiling
from models.variants import Variant
from models.weights.arrival import Arrival
from models.weights.carrier import Carrier
from models.weights.folder import WeightsFolder
from models.weights.hub import local_folder
from models.weights.single_file import SingleFile
from models.weights.stored_module import StoredModule, ready

_LOGGER = logging.getLogger(__name__)

_STORED_WHOLE = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes of tokenizers that are what ``tokenizer.json`` says; others of transformers add to it."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_engine(settings: EngineSettings, mesh: Mesh | None = None) -> WanEngine:
    """Load a model in the diffusers layout.

    ``mesh``: this process's place in a group of devices, in which only rank 0 holds the text encoder.

    Raises ``WeightsError`` or ``TuningError``, with a sentence on what is wrong.
    """
    mesh, phases = mesh or Mesh(), Phases()
    if settings.threads is not None:
        torch.set_num_threads(max(settings.threads // mesh.plan.devices, 1))
    variant = settings.variant
    device, dtype = torch.device(settings.device), _dtype(settings)
    prepare(device)
    tuning = Tuning.from_options(settings.options)
    model = TunedModel(tuning, variant, device, dtype, mesh)
    _check_decode(tuning, mesh, dtype)
    folder = WeightsFolder(local_folder(settings), settings.replaced)
    folder.check(variant)
    has_text = mesh.rank == 0
    offload = check_weights(
        folder.path, settings, device, dtype, has_text, plan=mesh.plan, scratch=model.scratch
    )
    model.place(offload)
    merges = settings.lora_folder is not None and _merges_loras(
        tuning, mesh, holds_originals(folder.path, settings, device, dtype, mesh.plan, offload)
    )
    phases.done("checks and kernels")
    names = ["transformer"] if variant.boundary is None else ["transformer", "transformer_2"]
    carrier = Carrier(device)
    arrivals = [_transformer(settings, folder, name, model, carrier, dtype) for name in names]
    phases.done("transformer")
    loras = load_loras(settings, arrivals, merges=merges, rest=model.rest)
    phases.done("LoRAs")
    denoiser, *others = [model.denoiser(arrival, keeps_originals=merges) for arrival in arrivals]
    phases.done("speed settings")
    streaming = _vae(folder, carrier, dtype, mesh, tuning)
    for network in streaming.networks:
        model.offloaded(network)
    phases.done("VAE")
    encoder = _text_encoder(folder, carrier, dtype, model) if has_text else None
    parts = Parts(
        text=SharedText(mesh, encoder, device),
        denoiser=denoiser,
        vae=streaming,
        low_noise=others[0] if others else None,
        image_encoder=_image_encoder(folder, carrier, dtype, model) if variant.image_tokens else None,
        loras=loras,
    )
    phases.done("encoders")
    _LOGGER.info("%s was loaded: %s", variant.name, phases)
    return _engine(variant, parts, tuning, model)


def _engine(variant: Variant, parts: Parts, tuning: Tuning, model: TunedModel) -> WanEngine:
    return WanEngine(
        variant,
        parts,
        cache_threshold=tuning.cache_threshold,
        exact_steps=tuning.exact_steps,
        unguided_steps=tuning.unguided_steps,
        low_resolution_steps=tuning.low_resolution_steps,
        tiles_when_full=Tiling() if tuning.tile_when_full else None,
        scratch=model.scratch,
        growth=model.growth,
    )


def _check_decode(tuning: Tuning, mesh: Mesh, dtype: torch.dtype) -> None:
    """Raise ``TuningError`` for settings of the decode that cannot work."""
    if tuning.tile_when_full and mesh.plan.devices > 1:
        raise TuningError("tile_when_full is for one device; in a group each has a strip of the picture.")
    if tuning.vae_float16 and dtype != torch.bfloat16:
        raise TuningError("vae_float16 decodes in place of bfloat16: the model must be in bfloat16.")


def _merges_loras(tuning: Tuning, mesh: Mesh, has_memory: bool) -> bool:
    """Return whether LoRAs of requests are merged into the weights, or stand beside the layers for want of
    memory for the originals: the same on all ranks.

    Raises ``TuningError`` for a setting that takes merged ones alone.
    """
    if not mesh.agree(leave=not has_memory):
        return True
    if tuning.compile:  # its parts take the layers as they are
        raise TuningError(
            "compile and a LoRA folder need memory for a second copy of the transformer's weights, and there "
            "is too little."
        )
    _LOGGER.warning(
        "LoRAs of requests run beside the layers, which takes longer: there is no memory for a second copy "
        "of the transformer's weights"
    )
    return False


def _transformer(
    settings: EngineSettings,
    folder: WeightsFolder,
    part: str,
    model: TunedModel,
    carrier: Carrier,
    dtype: torch.dtype,
) -> Arrival:
    """Load the folder's transformer, or the single file that replaces it. Where it waits, it stays in its
    files, as they hold it.
    """
    way = Carrier(torch.device("cpu")) if model.waits else carrier
    stored = StoredModule(WanTransformer, folder.path / part)
    if part not in settings.replaced:
        return Arrival(stored.load(way, dtype, as_stored=model.waits), dtype, carrier)
    transformer, file = stored.empty(), SingleFile(settings.replaced[part])
    scales = file.fill(transformer, settings.variant, way, dtype, as_stored=model.waits)
    return Arrival(ready(transformer, way.device), dtype, carrier, scales)


def _vae(
    folder: WeightsFolder, carrier: Carrier, dtype: torch.dtype, mesh: Mesh, tuning: Tuning
) -> StreamingVae:
    decoding = torch.float16 if tuning.vae_float16 else dtype
    vae = StoredModule(WanAutoencoder, folder.path / "vae").load(carrier, decoding)
    return StreamingVae(
        vae,
        mesh=mesh,
        tiling=Tiling() if tuning.vae_tiling else None,
        sturdy=dtype if tuning.vae_float16 else None,
        large=eight_bit_form(vae.device) if tuning.vae_fp8 else None,
    )


def _image_encoder(
    folder: WeightsFolder, carrier: Carrier, dtype: torch.dtype, model: TunedModel
) -> ImageEncoder:
    clip = StoredModule(CLIPVision, folder.path / "image_encoder").load(carrier, dtype)
    return ImageEncoder(_processor(folder.path / "image_processor"), model.offloaded(clip))


def _text_encoder(
    folder: WeightsFolder, carrier: Carrier, dtype: torch.dtype, model: TunedModel
) -> TextEncoder:
    encoder = StoredModule(UMT5Encoder, folder.path / "text_encoder").load(carrier, dtype)
    return TextEncoder(_tokenizer(folder.path / "tokenizer"), model.offloaded(encoder))


def _dtype(settings: EngineSettings) -> torch.dtype:
    if settings.dtype == "auto":
        return torch.bfloat16 if settings.device.startswith("cuda") else torch.float32
    if settings.dtype not in _DTYPES:
        raise WeightsError(f"dtype must be auto, {', '.join(_DTYPES)}, not {settings.dtype}.")
    return _DTYPES[settings.dtype]


def _tokenizer(folder: Path) -> Tokenizer:
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        if config["tokenizer_class"] in _STORED_WHOLE:
            return Tokenizer.from_file(str(folder / "tokenizer.json"))
        from transformers import AutoTokenizer  # which takes a second of processor time

        loaded: Tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
        return loaded
    except Exception as error:  # either library raises any type
        raise WeightsError(f"{folder} could not be loaded as a tokenizer: {first_line(error)}") from error


def _processor(folder: Path) -> PictureProcessor:
    try:
        return PictureProcessor.from_folder(folder)
    except (OSError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{folder} could not be loaded as an image processor: {first_line(error)}"
        ) from error
