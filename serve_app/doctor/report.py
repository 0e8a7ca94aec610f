"""The doctor's findings as text and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.text import Text

from serve_app.doctor.finding import Finding
from wan_serve.commands.terminal import output, shown

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def as_document(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return the findings as a JSON array."""
    return [asdict(finding) for finding in findings]


def print_findings(findings: Sequence[Finding]) -> None:
    """Print a line for each finding, below it what to do, and the count at the end."""
    console = output()
    for finding in findings:
        line = Text(f"{finding.state:<9}", style=_STYLES[finding.state])
        line.append(f"{finding.part:<15}{shown(finding.seen)}", style="default")
        console.print(line, soft_wrap=True)
        if finding.advice:
            console.print(Text(f"{'':<24}{shown(finding.advice)}", style="default"), soft_wrap=True)
    counts = {state: sum(finding.state == state for finding in findings) for state in _STYLES}
    console.print(Text(", ".join(f"{count} {state}" for state, count in counts.items())), soft_wrap=True)
