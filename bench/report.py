"""The results of ``bench.real_sizes`` as lines, as JSON and as Markdown. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.cases import Case
from models.memory.estimate import GB

_COLUMNS = (
    "case",
    "ours s",
    "wanted s",
    "diffusers s",
    "ratio",
    "TFLOP/s",
    "share",
    "peak GB",
    "said GB",
    "note",
)
_WIDTHS = (28, 9, 9, 12, 7, 8, 7, 8, 8, 0)


@dataclass(frozen=True, slots=True)
class Row:
    """The result of a case. Without ``ours_s`` it was left out, for the reason in ``note``."""

    case: Case
    ours_s: float | None = None
    diffusers_s: float | None = None
    flops: int = 0
    peak_tflops: float = 0.0
    peak_bytes: int = 0
    said_bytes: int = 0
    note: str = ""

    @property
    def tflops(self) -> float | None:
        """The TFLOP/s of our engine."""
        return None if self.ours_s is None else self.flops / self.ours_s / 1e12

    @property
    def ratio(self) -> float | None:
        """Diffusers' time over ours."""
        return None if self.ours_s is None or self.diffusers_s is None else self.diffusers_s / self.ours_s

    def cells(self) -> tuple[str, ...]:
        """Return the table's cells, ``_COLUMNS``; an unknown figure is empty."""
        case, tflops = self.case, self.tflops
        return (
            case.name,
            _number(self.ours_s, 3),
            _number(case.target_s, 1),
            _number(self.diffusers_s, 3),
            _number(self.ratio, 2),
            "" if tflops is None else f"{tflops:.3g}",
            "" if tflops is None or not self.peak_tflops else f"{tflops / self.peak_tflops:.0%}",
            _number(self.peak_bytes / GB if self.peak_bytes else None, 1),
            _number(self.said_bytes / GB if self.said_bytes else None, 1),
            self.note,
        )


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def line(row: Row) -> str:
    """Return the row as a line of the table in the terminal."""
    return _padded(row.cells())


def _padded(cells: tuple[str, ...]) -> str:
    first, *rest = zip(cells, _WIDTHS, strict=True)
    return (
        f"{first[0]:<{first[1]}}"
        + "".join(f"{cell:>{width}}" for cell, width in rest[:-1])
        + f"  {cells[-1]}"
    )


HEADER = _padded(_COLUMNS)


def markdown(
    rows: list[Row], machine: str, peak_tflops: float, fp8_peak_tflops: float | None, arguments: list[str]
) -> str:
    """Return a section for docs/performance.md."""
    fp8 = "" if fp8_peak_tflops is None else f", of fp8 matrices {fp8_peak_tflops:.3g}"
    rule = "|".join(["---"] * len(_COLUMNS))
    command = " ".join(["python -m bench real_sizes", *arguments])
    return "\n".join(
        [
            f"{machine}; `{command}`. Measured matmul peak: {peak_tflops:.3g} TFLOP/s{fp8}.",
            "",
            f"| {' | '.join(_COLUMNS)} |",
            f"|{rule}|",
            *(f"| {' | '.join(row.cells())} |" for row in rows),
        ]
    )


def as_json(
    rows: list[Row], machine: str, peak_tflops: float, fp8_peak_tflops: float | None
) -> Mapping[str, Any]:
    """Return the figures of all cases, and the machine that they were measured on."""
    return {
        "machine": machine,
        "matmul_tflops": peak_tflops,
        "matmul_tflops_fp8": fp8_peak_tflops,
        "cases": {
            row.case.name: {
                "ours_s": row.ours_s,
                "target_s": row.case.target_s,
                "diffusers_s": row.diffusers_s,
                "ratio": row.ratio,
                "tflops": row.tflops,
                "peak_bytes": row.peak_bytes,
                "said_bytes": row.said_bytes,
                "note": row.note,
            }
            for row in rows
        },
    }
