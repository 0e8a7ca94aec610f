"""A contact sheet: a row of frames for each clip, its prompt above it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from models.engine import Frames

_SHOWN = 9
_LINE = 14
_GAP = 2


def write(file: Path, clips: Sequence[tuple[str, Frames]]) -> None:
    """Write ``clips``, each with its caption, as a PNG."""
    rows = [_row(text, frames) for text, frames in clips]
    Image.fromarray(np.concatenate(rows)).save(file)


def _row(text: str, frames: Frames) -> Frames:
    chosen = frames[np.linspace(0, len(frames) - 1, _SHOWN).round().astype(int)]
    framed = np.pad(chosen, ((0, 0), (0, _GAP), (0, _GAP), (0, 0)), constant_values=255)
    pictures = np.concatenate(list(framed), axis=1)
    title = Image.new("RGB", (pictures.shape[1], _LINE), "white")
    ImageDraw.Draw(title).text((2, 1), text, fill="black")
    return np.concatenate([np.asarray(title), pictures])
