"""Check of a weights folder in the diffusers layout, before anything large is read."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from models.errors import WeightsError
from models.variants import Variant
from models.weights.safetensors_header import FLOATS, stored_tensors, weight_files

_CLASSES = {
    "vae": ("AutoencoderKLWan",),
    "text_encoder": ("UMT5EncoderModel",),
}
"""Classes that each part of every model may be saved as."""

_IMAGE_ENCODERS = ("CLIPVisionModel", "CLIPVisionModelWithProjection")


class WeightsFolder:
    """A model in the diffusers layout: ``model_index.json`` and a folder for each part.

    ``replaced``: parts whose weights come from elsewhere; only their configuration is checked here.
    """

    def __init__(self, path: Path, replaced: Collection[str] = ()) -> None:
        self.path = path
        self._replaced = replaced

    def check(self, variant: Variant) -> None:
        """Raise ``WeightsError`` unless the folder is whole, safe to load and of this variant."""
        index = self.index()
        if "transformer_2" in self._replaced and variant.boundary is None:
            raise WeightsError(f"transformer_2 has no place in {variant.name}, which has one transformer.")
        for part, classes in _CLASSES.items():
            self._check_part(index, part, classes)
        self._check_part(index, "transformer", _transformer_classes(variant))
        self._check_folder("tokenizer")
        self.check_variant(variant)

    def index(self) -> dict[str, Any]:
        """Read ``model_index.json``. Raises ``WeightsError`` if it is missing or unreadable."""
        if not self.path.is_dir():
            raise WeightsError(f"There is no weights folder {self.path}.")
        return self._json("model_index.json")

    def _check_part(self, index: dict[str, Any], part: str, classes: tuple[str, ...]) -> None:
        found = _class_of(index, part)
        if found not in classes:
            raise WeightsError(
                f"{self.path}: {part} is {found or 'missing'}, but must be {' or '.join(classes)}."
            )
        if part in self._replaced:
            return
        self._check_folder(part)
        for file in weight_files(self.path / part):
            check_safetensors(file)

    def _check_folder(self, part: str) -> None:
        if not (self.path / part).is_dir():
            raise WeightsError(f"{self.path} has no folder {part}.")

    def check_variant(self, variant: Variant) -> None:
        """Raise ``WeightsError`` unless the folder's configurations match this variant."""
        index = self.index()
        vae = self._json("vae/config.json")
        self._expect(
            variant, "expand_timesteps", bool(index.get("expand_timesteps")), variant.expand_timesteps
        )
        self._expect(variant, "the latent channels", vae.get("z_dim"), variant.latent_channels)
        self._expect(
            variant, "the spatial stride", vae.get("scale_factor_spatial", 8), variant.spatial_stride
        )
        self._expect(
            variant, "the temporal stride", vae.get("scale_factor_temporal", 4), variant.temporal_stride
        )
        self._check_transformer(variant, "transformer")
        has_second = _class_of(index, "transformer_2") is not None
        self._expect(variant, "a second expert", has_second, variant.boundary is not None)
        self._expect(variant, "boundary_ratio", index.get("boundary_ratio"), variant.boundary)
        if has_second:
            self._check_part(index, "transformer_2", _transformer_classes(variant))
            self._check_transformer(variant, "transformer_2")
        if variant.image_tokens:
            self._check_part(index, "image_encoder", _IMAGE_ENCODERS)
            self._check_folder("image_processor")
        self._expect(variant, "the number of image tokens", self._image_tokens(), variant.image_tokens)

    def _image_tokens(self) -> object:
        """Return the number of image tokens the transformer takes.

        The transformer's own configuration has it only for models of a first and a last picture; otherwise it
        follows from the image encoder's patches.
        """
        transformer = self._json("transformer/config.json")
        if transformer.get("image_dim") is None:
            return 0
        if transformer.get("pos_embed_seq_len") is not None:
            return transformer["pos_embed_seq_len"]
        encoder = self._json("image_encoder/config.json")
        return (encoder.get("image_size", 224) // encoder.get("patch_size", 32)) ** 2 + 1

    def _check_transformer(self, variant: Variant, part: str) -> None:
        config = self._json(f"{part}/config.json")
        for what, found, expected in (
            ("patch size", config.get("patch_size"), [1, variant.patch, variant.patch]),
            ("input channels", config.get("in_channels"), variant.input_channels),
            ("number of layers", config.get("num_layers"), variant.layers),
            ("number of heads", config.get("num_attention_heads"), variant.heads),
            ("number of control blocks", len(config.get("vace_layers") or []), variant.control_blocks),
        ):
            self._expect(variant, f"{part}'s {what}", found, expected)

    def _expect(self, variant: Variant, what: str, found: object, expected: object) -> None:
        if found != expected:
            raise WeightsError(
                f"{self.path} is not {variant.name}: {what} should be {expected}, "
                f"but the folder says {found}."
            )

    def _json(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise WeightsError(
                f"{self.path} has no {name}: it is not a model in the diffusers layout."
            ) from None
        except (OSError, ValueError) as error:
            raise WeightsError(f"{self.path / name} cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise WeightsError(f"{self.path / name} is not a JSON object.")
        return content


def _transformer_classes(variant: Variant) -> tuple[str, ...]:
    return ("WanVACETransformer3DModel",) if variant.control_blocks else ("WanTransformer3DModel",)


def _class_of(index: dict[str, Any], part: str) -> object:
    """Return the class that ``model_index.json`` names for a part; None if it names none."""
    return (index.get(part) or [None, None])[1]


def check_safetensors(file: Path) -> None:
    """Raise ``WeightsError`` if the file is truncated or its weights are quantised.

    Quantised weights would be loaded as plain numbers, without their scales.
    """
    for tensor in stored_tensors(file):
        if tensor.name.endswith(".weight") and tensor.dtype not in FLOATS:
            raise WeightsError(
                f"{file} holds {tensor.name} as {tensor.dtype}; taken here are {', '.join(FLOATS)}."
            )
