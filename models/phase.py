"""The phases of a run, in the words that people see. Imports no torch."""

from collections.abc import Callable
from enum import StrEnum
from typing import TypeAlias


class Phase(StrEnum):
    """What a run is doing."""

    ENHANCING = "enhancing prompt"
    """A chat model is asked to write the prompt out."""
    PREPARING = "preparing"
    """It is checked, and what follows of it is set up: LoRAs, noise, text keys."""
    ENCODING_TEXT = "encoding text"
    ENCODING_IMAGE = "encoding image"
    """Pictures, a video to change or the end of the fragment before are encoded."""
    DENOISING = "denoising"
    DECODING = "decoding"
    WRITING = "writing"
    """The video's file is completed."""


OnPhase: TypeAlias = Callable[[Phase], None]
"""Callback at the begin of a phase, in the midst of an engine's call: it raises nothing."""


def untold(phase: Phase) -> None:
    """Tell nobody."""
