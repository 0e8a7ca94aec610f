"""Training report: the trained model's marks in the exam, and contact sheets."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from models.demo import contact_sheet
from models.demo.exam import answers, marks, settings_of
from models.loading import load_engine
from models.variants import VARIANTS

_SHOWN = 24


def report(folder: Path, to: Path, prompts: int, say: Callable[[str], None]) -> None:
    """Examine the model in ``folder``; write ``marks.json`` and one contact sheet per setting."""
    told = {}
    for variant in (VARIANTS["demo"], VARIANTS["demo-distill"]):
        engine = load_engine(settings_of(variant, folder))
        for task in ("t2v", "i2v"):
            given = list(answers(engine, variant, prompts, from_pictures=task == "i2v"))
            name = f"{variant.name} {task}"
            told[name] = asdict(marks(given))
            say(f"{name}: {told[name]}")
            contact_sheet.write(
                to / f"{variant.name}_{task}.png", [(each.verdict, each.frames) for each in given[:_SHOWN]]
            )
    (to / "marks.json").write_text(json.dumps(told, indent=1))
