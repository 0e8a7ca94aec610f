"""Checkpoints of runs: a snapshot and the fingerprint of its run, as a safetensors file."""

import json
import re
import struct
from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from models.engine import Snapshot

_NAME = re.compile(r"(\d{1,9})-(\d{1,9})-(\d{1,9})\.safetensors", re.ASCII)
_CONTENT = "checkpoint"
"""The key of the file's metadata that holds all but the arrays, as JSON."""


class CheckpointError(Exception):
    """A file that is no whole checkpoint, or a run that is not worth one."""


@dataclass(frozen=True, slots=True)
class CheckpointName:
    """The name of a checkpoint's file: who made it, and how far the run was."""

    attempt: int
    fragment: int
    step: int
    """Denoise steps of the fragment that are done."""

    def __str__(self) -> str:
        return f"{self.attempt}-{self.fragment}-{self.step}.safetensors"

    @classmethod
    def of(cls, text: str) -> "CheckpointName | None":
        """Parse the name of a file; return None for one of another kind."""
        found = _NAME.fullmatch(text)
        return None if found is None else cls(*map(int, found.groups()))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A snapshot, and the fingerprint of the run that it is of."""

    fingerprint: str
    snapshot: Snapshot

    def to_bytes(self) -> bytes:
        """Return the content of the file.

        Raises ``CheckpointError`` for numbers that are not finite: a device at fault is to spoil one attempt
        and not those that follow.
        """
        if not all(np.isfinite(array).all() for array in self.snapshot.arrays.values()):
            raise CheckpointError("the state of the run is not finite")
        about = {
            "fingerprint": self.fingerprint,
            "fragment": self.snapshot.fragment,
            "step": self.snapshot.step,
        }
        content: bytes = save(dict(self.snapshot.arrays), {_CONTENT: json.dumps(about)})
        return content

    @classmethod
    def from_bytes(cls, data: bytes) -> "Checkpoint":
        """Parse the content of a file. Raises ``CheckpointError``."""
        try:
            # The library reads metadata from a file alone: a length, then JSON.
            (length,) = struct.unpack_from("<Q", data)
            about = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_CONTENT])
            snapshot = Snapshot(about["fragment"], about["step"], load(data))
            return cls(about["fingerprint"], snapshot)
        except (SafetensorError, struct.error, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"no whole checkpoint: {error}") from error
