"""The demo model's marks for following its prompts: plain, and under each setting that costs quality."""

import argparse
import json
from dataclasses import asdict, replace

import torch

from bench.machine import describe
from models.demo.exam import Marks, answers, marks, settings_of
from models.errors import TuningError
from models.loading import load_engine
from models.variants import VARIANTS

_PLAIN = settings_of(VARIANTS["demo"])
SETTINGS = {
    "plain": _PLAIN,
    "bfloat16": replace(_PLAIN, dtype="bfloat16"),
    "fp8": replace(_PLAIN, options={"fp8": True}),
    "cache_threshold 0.1": replace(_PLAIN, options={"cache_threshold": 0.1}),
    "4 steps": settings_of(VARIANTS["demo-distill"]),
}
_COLUMNS = ("background", "colour", "motion", "everything", "first_frame")


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="scripts/bench demo", description=__doc__)
    parser.add_argument("--prompts", type=int, default=100, help="of each setting and task (default 100)")
    parser.add_argument("--only", choices=SETTINGS, help="this setting alone")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args(arguments)
    print(f"{describe()}; {torch.get_num_threads()} threads\n")
    print("| task | setting | background | colour | motion | all three | first frame | s a clip |")
    print("|---|---|---|---|---|---|---|---|")
    told: dict[str, Marks] = {}
    for task in ("t2v", "i2v"):
        for name, settings in SETTINGS.items():
            if options.only in (None, name):
                try:
                    engine = load_engine(replace(settings, device=options.device))
                except TuningError as error:  # some settings are for GPUs alone
                    print(f"| {task} | {name} | not here: {error} | | | | | |", flush=True)
                    continue
                given = answers(engine, settings.variant, options.prompts, from_pictures=task == "i2v")
                told[f"{task}, {name}"] = found = marks(given)
                print(f"| {task} | {name} | {_cells(found)} |", flush=True)
    if options.json:
        print(json.dumps({name: asdict(each) for name, each in told.items()}))
    return 0


def _cells(found: Marks) -> str:
    shares = [getattr(found, column) for column in _COLUMNS]
    return " | ".join([*("" if each is None else f"{each:.0%}" for each in shares), f"{found.seconds:.2f}"])
