"""Tables of the commands on terminals of several widths."""

import io

import pytest
from rich.console import Console

from wan_serve.commands.terminal import NarrowingTable, table


def test_of_a_narrow_table_the_last_column_gives_way() -> None:
    console = Console(file=io.StringIO(), width=40)
    console.print(table(("task", "state", "prompt"), [("a" * 20, "waiting", "ball " * 20)]))
    assert isinstance(console.file, io.StringIO)
    line = console.file.getvalue().splitlines()[1]
    assert line.startswith(f"{'a' * 20}  waiting  ball") and line.endswith("…")


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (120, "task state done left model prompt"),
        (100, "task state done left prompt"),
        (80, "task state prompt"),
    ],
)
def test_lesser_columns_make_room_for_prompts(width: int, columns: str) -> None:
    names = ("task", "state", "done", "left", "model", "prompt")
    row = ("a" * 32, "waiting, number 1", "50%", "3 min 05 s", "wan2.2-t2v-a14b", "球 " * 40)
    console = Console(file=io.StringIO(), width=width)
    console.print(NarrowingTable(names, [row], ("model", "left", "done")))
    assert isinstance(console.file, io.StringIO)
    heads, line = console.file.getvalue().splitlines()
    assert heads.split() == columns.split()
    assert line.count("球") >= 9
