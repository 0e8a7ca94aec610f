"""One thing that a block found, and the file of JSON lines that it is appended to. Imports no torch."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["figure", "gate", "kernel", "note", "failure"]
"""A measurement; an error that must keep a bound before anything is timed; a kernel's share of a profile; a
sentence, such as why a block was left out; a block that broke.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a block found, as one line."""

    block: str
    kind: Kind
    name: str
    value: float | None = None
    unit: str = ""
    wanted: float | None = None
    """Target or, of a gate, the bound: at most, or at least where the unit is dB."""
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether a gate's value keeps its bound; a NaN does not."""
        if self.value is None or self.wanted is None:
            return False
        return self.value >= self.wanted if self.unit == "dB" else self.value <= self.wanted


class Findings:
    """The file of findings. A line is on the disk before ``add`` returns, so that no later crash loses it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, finding: Finding) -> None:
        """Append a finding."""
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(finding)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[Finding]:
        """Read all findings, without a last line that was cut off."""
        return list(_parsed(self.path.read_text().splitlines())) if self.path.exists() else []


def _parsed(lines: Iterable[str]) -> Iterable[Finding]:
    for line in lines:
        try:
            yield Finding(**json.loads(line))
        except ValueError:  # its process was killed while it wrote
            continue
