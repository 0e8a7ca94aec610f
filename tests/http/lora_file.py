"""LoRA files for tests."""

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any


def save(file: Path, shapes: Mapping[str, Sequence[int]]) -> None:
    """Write a LoRA of float32 zeros."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))
