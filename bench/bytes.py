"""The bytes that the engine moves on a GPU beside its large kernels, and its launches: a calculation.

A guided step of the 14B and a decode of 81 frames of 832x480 run in bfloat16 on a fake CUDA device, which
knows shapes only. An operation counts as reading its inputs and writing its results once, in one launch.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from models.tuning import Tuning
from models.variants import VARIANTS
from testbed.fake_device.device import FakeDevice
from testbed.fake_device.dry_run import DryRun, dry_engine, dry_model, few_layers, sized_request
from testbed.fake_device.traffic import Moved, total_bytes

_VARIANT = VARIANTS["wan2.1-t2v-14b"]
_FORWARDS = 2 * _VARIANT.layers
"""Block-forwards of a guided step."""


@dataclass(frozen=True, slots=True)
class Part:
    """What is moved in one part of the work, by how many launches."""

    name: str
    bytes: int
    launches: int


@dataclass(frozen=True, slots=True)
class Figure:
    """A count, and what is wanted at most; None where nothing is."""

    name: str
    value: float
    unit: str
    wanted: float | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """What is counted: one block of a step, and a decode."""

    block: tuple[Part, ...]
    """Between the products of a block-forward, each part by the product or attention that it leads to."""
    block_launches: int
    fp8_block: tuple[Part, ...]
    fp8_block_launches: int
    decode: tuple[Part, ...]
    """Beside the convolutions, by operation, the largest first."""
    decode_launches: int

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The figures that there are targets for, and the launches."""
        block, fp8_block = _sum(self.block), _sum(self.fp8_block)
        return (
            Figure("a block-forward, between its products", block / 1e9, "GB", 8.5),
            Figure("8-bit quantising, a guided step", _FORWARDS * (fp8_block - block) / 1e9, "GB", 300),
            Figure("a decode, beside its convolutions", _sum(self.decode) / 1e9, "GB", 300),
            Figure("a block-forward", self.block_launches, "launches"),
            Figure("a block-forward in 8 bits", self.fp8_block_launches, "launches"),
            Figure("a decode", self.decode_launches, "launches"),
        )


def count() -> Counts:
    """Count on the fake device: seconds, and no memory to speak of."""
    device = FakeDevice()
    with device:
        plain, in_8_bits = (
            _run(device, Tuning(attention="sdpa")),
            _run(device, Tuning(attention="sdpa", fp8=True)),
        )
        block, fp8_block = _block(_step(plain)), _block(_step(in_8_bits))
        decode = plain.decode().traffic.launches
    return Counts(
        block=tuple(_between(block)),
        block_launches=len(block),
        fp8_block=tuple(_between(fp8_block)),
        fp8_block_launches=len(fp8_block),
        decode=tuple(_by_operation(moved for moved in decode if moved.kind != "convolution")),
        decode_launches=len(decode),
    )


def _run(device: FakeDevice, tuning: Tuning) -> DryRun:
    """Prepare a run of one step."""
    variant = few_layers(_VARIANT)
    model = dry_model(device, variant)
    run = DryRun(device, model, dry_engine(model, variant, tuning))
    run.prepare(sized_request(variant, steps=1))
    return run


def _step(run: DryRun) -> list[Moved]:
    return run.step().traffic.launches


def _block(launches: list[Moved]) -> list[Moved]:
    """Cut out one block: from the first product of a block to the first of the next, that one left out."""
    first, following = (
        next(place for place, moved in enumerate(launches) if moved.weight.startswith(f"blocks.{number}."))
        for number in (0, 1)
    )
    return launches[first:following]


def _between(block: list[Moved]) -> Iterator[Part]:
    """Yield the parts between products, the one before the block's first product first."""
    parts: list[Part] = []
    first = _product(block[0])
    waiting: list[Moved] = []
    for moved in block[1:]:
        if moved.kind == "other":
            waiting.append(moved)
        else:
            parts.append(Part(_product(moved), total_bytes(waiting), len(waiting)))
            waiting = []
    yield Part(first, total_bytes(waiting), len(waiting))
    yield from parts


def _product(moved: Moved) -> str:
    """Return what a product is called in its block: the name of its layer."""
    if moved.kind == "attention":
        return "attention"
    number_and_layer = moved.weight.removeprefix("blocks.")
    return number_and_layer.partition(".")[2].rpartition(".")[0] or moved.name


def _by_operation(launches: Iterable[Moved]) -> list[Part]:
    bytes_of, launches_of = Counter[str](), Counter[str]()
    for moved in launches:
        bytes_of[moved.name] += moved.bytes
        launches_of[moved.name] += 1
    return [Part(name, size, launches_of[name]) for name, size in bytes_of.most_common()]


def _sum(parts: Iterable[Part]) -> int:
    return sum(part.bytes for part in parts)


def main(arguments: list[str]) -> int:
    """Count and print."""
    parser = argparse.ArgumentParser(prog="scripts/bench bytes", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--markdown", action="store_true", help="print the tables of docs/performance.md")
    options = parser.parse_args(arguments)
    counts = count()
    if options.json:
        print(json.dumps(asdict(counts) | {"figures": [asdict(figure) for figure in counts.figures]}))
    elif options.markdown:
        print(markdown(counts))
    else:
        print("\n".join(_lines(counts)))
    return 0


def markdown(counts: Counts) -> str:
    """Return the tables of docs/performance.md."""
    return "\n".join(
        [
            *_table(("counted", "now", "wanted", "unit"), map(_figure_cells, counts.figures)),
            "",
            *_table(
                ("part of a block, up to", "GB", "launches", "GB in 8 bits", "launches"), _block_cells(counts)
            ),
            "",
            *_table(("decode", "GB", "launches"), map(_part_cells, counts.decode)),
        ]
    )


def _lines(counts: Counts) -> Iterator[str]:
    for figure in counts.figures:
        name, now, wanted, unit = _figure_cells(figure)
        yield f"{name:<40}{now:>9} {unit}" + (f", wanted at most {wanted}" if wanted else "")
    for title, parts in (
        ("block", counts.block),
        ("block in 8 bits", counts.fp8_block),
        ("decode", counts.decode),
    ):
        yield ""
        for part in parts:
            name, size, launches = _part_cells(part)
            yield f"{title}: {name:<38}{size:>9} GB {launches:>6} launches"


def _figure_cells(figure: Figure) -> tuple[str, ...]:
    digits = 0 if figure.unit == "launches" else 2
    return (
        figure.name,
        f"{figure.value:.{digits}f}",
        "" if figure.wanted is None else f"{figure.wanted:g}",
        figure.unit,
    )


def _part_cells(part: Part) -> tuple[str, ...]:
    return part.name, f"{part.bytes / 1e9:.2f}", str(part.launches)


def _block_cells(counts: Counts) -> Iterator[tuple[str, ...]]:
    """Yield the rows of both forms of the block, which may lead to different products."""
    in_8_bits = {name: cells for name, *cells in _numbered(counts.fp8_block)}
    plain = {name: cells for name, *cells in _numbered(counts.block)}
    for name in [*plain, *(name for name in in_8_bits if name not in plain)]:
        yield name, *plain.get(name, ("", "")), *in_8_bits.get(name, ("", ""))


def _numbered(parts: Iterable[Part]) -> Iterator[tuple[str, ...]]:
    """Yield the cells of parts; the second of the same name, the text's attention, gets a number."""
    met = Counter[str]()
    for part in parts:
        name, *cells = _part_cells(part)
        met[name] += 1
        yield f"{name} {met[name]}" if met[name] > 1 else name, *cells


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield f"| {' | '.join(row)} |"
