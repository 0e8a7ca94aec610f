"""What the doctor found about one part of the machine."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

State: TypeAlias = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: a part, how it is, what was seen, and what to do unless it is well."""

    part: str
    state: State
    seen: str
    advice: str = ""

    @property
    def is_problem(self) -> bool:
        """Whether the service does not start, or fails every task, because of it."""
        return self.state == "problem"
