"""The closing section for docs/performance.md, from the findings. Imports no torch."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from bench.gpu_blocks.finding import Finding, Kind

Cells: TypeAlias = Callable[[Finding], tuple[str, ...]]
"""Makes the cells of a finding's row."""


def markdown(findings: list[Finding], command: str) -> str:
    """Return the section: the machine, then a table of each kind of finding."""
    machine = next((finding.note for finding in findings if finding.name == "machine"), "an unknown machine")
    lines = [f"{machine}; `{command}`.", ""]
    lines += _table("figure", ("block", "figure", "measured", "wanted", "unit", "note"), findings, _figure)
    lines += _ratios(findings)
    lines += _table("gate", ("gate", "found", "bound", "unit", "passed"), findings, _gate)
    lines += _table("kernel", ("block", "kernel", "ms", "share"), findings, _kernel)
    for kind in ("failure", "note"):
        lines += _table(kind, ("block", kind, "reason"), findings, _sentence)
    return "\n".join(lines)


def _table(kind: Kind, header: tuple[str, ...], findings: Iterable[Finding], cells: Cells) -> Iterator[str]:
    rows = [cells(finding) for finding in findings if finding.kind == kind]
    if not rows:
        return
    yield f"| {' | '.join(header)} |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in row) + " |"
    yield ""


def _ratios(findings: list[Finding]) -> Iterator[str]:
    seconds = {finding.name: finding.value for finding in findings if finding.unit == "s"}
    for name, theirs in seconds.items():
        ours = seconds.get(name.removesuffix(" by diffusers"))
        if name.endswith(" by diffusers") and ours and theirs:
            yield f"{name.removesuffix(' by diffusers')}: {theirs / ours:.2f} times as fast as diffusers."
            yield ""


def _figure(finding: Finding) -> tuple[str, ...]:
    wanted = "" if finding.wanted is None else f"{finding.wanted:g}"
    return finding.block, finding.name, _number(finding.value), wanted, finding.unit, finding.note


def _gate(finding: Finding) -> tuple[str, ...]:
    passed = "yes" if finding.passed else "no"
    return finding.name, _number(finding.value), _number(finding.wanted), finding.unit, passed


def _kernel(finding: Finding) -> tuple[str, ...]:
    return finding.block, f"`{finding.name}`", _number(finding.value), finding.note


def _sentence(finding: Finding) -> tuple[str, ...]:
    return finding.block, finding.name, finding.note


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
