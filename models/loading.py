"""A weights folder to a ready engine. Reads local safetensors files only: no network, no pickles."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel, WanVACETransformer3DModel
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPVisionModel, UMT5EncoderModel

from models.denoiser import Denoiser
from models.device_memory import check_weights
from models.engine import EngineSettings
from models.errors import WeightsError
from models.image_encoder import ImageEncoder
from models.mesh import Mesh
from models.pipeline import WanEngine
from models.shared_text import SharedText
from models.text import TextEncoder
from models.vae import StreamingVae
from models.weights_folder import WeightsFolder

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_engine(settings: EngineSettings, mesh: Mesh | None = None) -> WanEngine:
    """Load a folder in the diffusers layout. Raises ``WeightsError``: one sentence on what is wrong.

    ``mesh``: this process's place in a group of devices. Only rank 0 holds the text encoder then.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    mesh = mesh or Mesh()
    folder = WeightsFolder(settings.weights)
    folder.check(settings.variant)
    device, dtype = torch.device(settings.device), _dtype(settings)
    check_weights(folder.path, settings, device, dtype, has_text=mesh.rank == 0)
    variant = settings.variant
    cls = WanVACETransformer3DModel if variant.control_blocks else WanTransformer3DModel
    transformer = Denoiser(_model(cls, folder.path / "transformer", device, dtype), mesh)
    low_noise = None
    if variant.boundary is not None:
        low_noise = Denoiser(_model(cls, folder.path / "transformer_2", device, dtype), mesh)
    vae = _model(AutoencoderKLWan, folder.path / "vae", device, dtype)
    encoder = _text_encoder(folder, device, dtype) if mesh.rank == 0 else None
    text = SharedText(mesh, encoder, device)
    image_encoder = None
    if variant.image_tokens:
        clip = _model(CLIPVisionModel, folder.path / "image_encoder", device, dtype)
        image_encoder = ImageEncoder(_processor(folder.path / "image_processor"), clip)
    return WanEngine(variant, text, transformer, StreamingVae(vae, mesh=mesh), low_noise, image_encoder)


def _text_encoder(folder: WeightsFolder, device: torch.device, dtype: torch.dtype) -> TextEncoder:
    model = _model(UMT5EncoderModel, folder.path / "text_encoder", device, dtype)
    return TextEncoder(_tokenizer(folder.path / "tokenizer"), model)


def _dtype(settings: EngineSettings) -> torch.dtype:
    if settings.dtype == "auto":
        return torch.bfloat16 if settings.device.startswith("cuda") else torch.float32
    if settings.dtype not in _DTYPES:
        raise WeightsError(f"dtype must be auto, {', '.join(_DTYPES)}, not {settings.dtype}.")
    return _DTYPES[settings.dtype]


def _model(cls: Any, folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    try:
        model, report = cls.from_pretrained(
            folder, torch_dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # whatever a broken file makes diffusers or transformers raise
        raise WeightsError(f"{folder} could not be loaded as {cls.__name__}: {_first_line(error)}") from error
    # Both libraries would go on with random numbers in place of missing tensors.
    missing = [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]
    if missing:
        raise WeightsError(f"{folder} lacks {len(missing)} tensors of {cls.__name__}, such as {missing[0]}.")
    return model.eval().requires_grad_(False).to(device)


def _tokenizer(folder: Path) -> Any:
    return _preprocessor(AutoTokenizer, folder, "a tokenizer")


def _processor(folder: Path) -> Any:
    # The other one, on torchvision, resizes a little differently: what is installed must not change a video.
    return _preprocessor(CLIPImageProcessorPil, folder, "an image processor")


def _preprocessor(cls: Any, folder: Path, what: str) -> Any:
    try:
        return cls.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise WeightsError(f"{folder} could not be loaded as {what}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
