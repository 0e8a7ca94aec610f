"""What the commands print: text of others is shown as text, whatever it holds."""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that steer a terminal, turn its text around, or cannot be encoded."""
_WIDTH_OF_A_PIPE = 200
_ROOM = 24
"""Columns of a terminal that the last column of a table is to have, if its text is as long."""
_GAP = 2


def shown(text: str) -> str:
    """Return a text of one line in which no character steers the terminal."""
    return _STEERING.sub(_written_out, text)


def _written_out(found: re.Match[str]) -> str:
    if found[0] in "\t\n\r":
        return " "
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


def complain(sentence: object) -> None:
    """Print a sentence on standard error."""
    print(shown(str(sentence)), file=sys.stderr, flush=True)


def print_json(document: object, *, indent: int | None = 2) -> None:
    """Print a JSON document; of characters beyond ASCII the numbers."""
    print(json.dumps(document, indent=indent), flush=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """Return a table whose last column gives way where the terminal is narrow."""
    found = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        found.add_column(column, no_wrap=column != columns[-1])
    for row in rows:
        cells = ("" if cell is None else shown(str(cell)) for cell in row)
        found.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in cells))
    return found


@dataclass(frozen=True, slots=True)
class NarrowingTable:
    """A table without some of its columns, those of ``lesser`` in turn, where its last one lacks room."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    lesser: Sequence[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        """Yield the table as it fits."""
        kept = list(self.columns)
        for name in self.lesser:
            if self._fits(kept, options.max_width):
                break
            kept.remove(name)
        places = [self.columns.index(name) for name in kept]
        yield table(kept, [[row[place] for place in places] for row in self.rows])

    def _fits(self, kept: Sequence[str], width: int) -> bool:
        *others, last = (self._width(name) for name in kept)
        return sum(others) + _GAP * len(others) + min(last, _ROOM) <= width

    def _width(self, name: str) -> int:
        place = self.columns.index(name)
        return max(cell_len(name), *(cell_len(shown(row[place])) for row in self.rows), 0)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table on standard output."""
    output().print(table(columns, rows))


def output() -> Console:
    """Return standard output as rich writes to it; a pipe is wide."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_OF_A_PIPE)


def seconds(value: float) -> str:
    """Return a duration for people, such as ``42 s`` or ``3 min 05 s``."""
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
