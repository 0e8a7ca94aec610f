"""Headers of safetensors files: names, dtypes and shapes of the tensors, without reading the tensors.

Format: a little-endian uint64 header length, the header as JSON, then the tensors, with ``data_offsets``
counted from the end of the header (github.com/huggingface/safetensors, "Format").
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import WeightsError

FLOATS = ("F64", "F32", "F16", "BF16")
"""The format's names of the dtypes that need no scale."""

FLOATS_8 = ("F8_E4M3", "F8_E5M2")
"""The format's names of the 8-bit floats, which mostly come with a scale."""

_MAX_HEADER_BYTES = 100_000_000
"""The format's own limit on header length; a larger value means that the file is of another format."""

_OTHERS = {b"GGUF": "GGUF", b"PK\x03\x04": "a pickle", b"\x80\x02": "a pickle"}
"""Other weight formats, by their first bytes. A pickle can run code, and is never opened."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of a file. ``dtype`` is the format's own name, such as ``BF16`` or ``F8_E4M3``."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    """Where its data begins in the file, in bytes."""


def weight_files(path: Path) -> list[Path]:
    """List the safetensors files of ``path``: a file, an index of shards, or a folder of either.

    Raises ``WeightsError`` if there is none. A shard that the index names may still be missing.
    """
    if path.is_dir():
        indexes = sorted(path.glob("*.safetensors.index.json"))
        files = _shards(indexes[0]) if indexes else sorted(path.glob("*.safetensors"))
        if not files:
            raise WeightsError(f"{path} holds no safetensors file, and no other format is loaded.")
        return files
    return _shards(path) if path.suffix == ".json" else [path]


def _shards(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return sorted(index.parent / name for name in names)
    except FileNotFoundError:
        raise WeightsError(f"{index} is missing.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index} is not an index of safetensors files.") from error


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """The tensors of a file, in order, and the metadata strings of its writer."""

    tensors: tuple[StoredTensor, ...]
    metadata: Mapping[str, str]


def stored_tensors(file: Path) -> list[StoredTensor]:
    """List the tensors of a safetensors file. Raises ``WeightsError`` as ``read_header`` does."""
    return list(read_header(file).tensors)


def read_header(file: Path) -> SafetensorsHeader:
    """Read a safetensors header. Raises ``WeightsError`` for a truncated file or another format."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            first = stream.read(8)
            (header_bytes,) = struct.unpack("<Q", first)
            if header_bytes > _MAX_HEADER_BYTES:
                raise WeightsError(f"{file} is not a safetensors file{_instead(first)}.")
            if header_bytes > size - 8:
                raise WeightsError(f"{file} is cut short.")
            header: dict[str, Any] = json.loads(stream.read(header_bytes))
        metadata = dict(header.pop("__metadata__", None) or {})
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        tensors = tuple(
            StoredTensor(
                file, name, entry["dtype"], tuple(entry["shape"]), 8 + header_bytes + entry["data_offsets"][0]
            )
            for name, entry in header.items()
        )
    except FileNotFoundError:
        raise WeightsError(f"{file} is missing.") from None
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{file} is not a safetensors file.") from error
    if size < 8 + header_bytes + end:
        raise WeightsError(f"{file} is cut short.")
    return SafetensorsHeader(tensors, metadata)


def _instead(first: bytes) -> str:
    return next((f" but {other}" for magic, other in _OTHERS.items() if first.startswith(magic)), "")
