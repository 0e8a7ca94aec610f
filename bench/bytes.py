"""The bytes that the engine moves on a GPU beside its large kernels, and its launches: a calculation.

A guided step of the 14B, a decode and two encodes of 81 frames of 832x480 run in bfloat16 on a fake CUDA
device, which knows shapes only. An operation counts as reading its inputs and writing its results once, in
one launch.
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
class Work:
    """Parts of the work, and its launches, also those that are in no part."""

    parts: tuple[Part, ...]
    launches: int

    @property
    def bytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.bytes for part in self.parts)


@dataclass(frozen=True, slots=True)
class Figure:
    """A count, and what is wanted at most; None where nothing is."""

    name: str
    value: float
    unit: str
    wanted: float | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """What is counted: one block of a step, and of the VAE a decode and two encodes."""

    block: Work
    """Its parts are what lies between the products, each by the product or attention that it leads to."""
    fp8_block: Work
    decode: Work
    """Its parts are what lies beside the convolutions, by operation, the largest first."""
    fp8_decode: Work
    """One with convolutions in 8 bits at the two largest resolutions."""
    picture: Work
    """Encode of a picture and gray, which image-to-video models take; parts as of the decode."""
    video: Work
    """Encode of a video that moves."""

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The figures that there are targets for, and the launches."""
        quantising = _FORWARDS * (self.fp8_block.bytes - self.block.bytes)
        return (
            Figure("a block-forward, between its products", self.block.bytes / 1e9, "GB", 8.5),
            Figure("8-bit quantising, a guided step", quantising / 1e9, "GB", 300),
            Figure("a decode, beside its convolutions", self.decode.bytes / 1e9, "GB", 300),
            Figure("a decode with vae_fp8, beside its convolutions", self.fp8_decode.bytes / 1e9, "GB"),
            Figure("an encode of a picture, beside its convolutions", self.picture.bytes / 1e9, "GB"),
            Figure("an encode of a video, beside its convolutions", self.video.bytes / 1e9, "GB"),
            Figure("a block-forward", self.block.launches, "launches"),
            Figure("a block-forward in 8 bits", self.fp8_block.launches, "launches"),
            Figure("a decode", self.decode.launches, "launches"),
            Figure("a decode with vae_fp8", self.fp8_decode.launches, "launches"),
            Figure("an encode of a picture", self.picture.launches, "launches"),
            Figure("an encode of a video", self.video.launches, "launches"),
        )


def count() -> Counts:
    """Count on the fake device: seconds, and no memory to speak of."""
    device = FakeDevice()
    with device:
        plain, in_8_bits = (
            _run(device, Tuning(attention="sdpa")),
            _run(device, Tuning(attention="sdpa", fp8=True, vae_fp8=True)),
        )
        blocks = [_block(_step(run)) for run in (plain, in_8_bits)]
        of_vae = [
            plain.decode(),
            in_8_bits.decode(),
            *(plain.encode(moving) for moving in (False, True)),
        ]
    return Counts(
        *(Work(tuple(_between(block)), len(block)) for block in blocks),
        *(_beside_convolutions(stage.traffic.launches) for stage in of_vae),
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


def _beside_convolutions(launches: list[Moved]) -> Work:
    bytes_of, launches_of = Counter[str](), Counter[str]()
    for moved in launches:
        if moved.kind != "convolution":
            bytes_of[moved.name] += moved.bytes
            launches_of[moved.name] += 1
    parts = (Part(name, size, launches_of[name]) for name, size in bytes_of.most_common())
    return Work(tuple(parts), len(launches))


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
            *_table(("decode", "GB", "launches"), map(_part_cells, counts.decode.parts)),
            "",
            *_table(("encode of a video", "GB", "launches"), map(_part_cells, counts.video.parts)),
        ]
    )


def _lines(counts: Counts) -> Iterator[str]:
    for figure in counts.figures:
        name, now, wanted, unit = _figure_cells(figure)
        yield f"{name:<48}{now:>9} {unit}" + (f", wanted at most {wanted}" if wanted else "")
    for title, work in (
        ("block", counts.block),
        ("block in 8 bits", counts.fp8_block),
        ("decode", counts.decode),
        ("decode with vae_fp8", counts.fp8_decode),
        ("encode of a picture", counts.picture),
        ("encode of a video", counts.video),
    ):
        yield ""
        for part in work.parts:
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
    in_8_bits = {name: cells for name, *cells in _numbered(counts.fp8_block.parts)}
    plain = {name: cells for name, *cells in _numbered(counts.block.parts)}
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
