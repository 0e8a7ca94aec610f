"""A video as a client sent it, measured."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, eq=False)
class SourceVideo:
    """A video file that can be read: its bytes or its place, and the size of its first frame in pixels."""

    data: bytes | Path
    container: str
    """In ffmpeg's words."""
    width: int
    height: int
    duration_s: float | None
    """Seconds by its header; None if that says nothing."""
    fps: float | None = None
    """Frames a second by its header; None if that says nothing."""
