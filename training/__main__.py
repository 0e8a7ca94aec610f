"""``scripts/train_demo_model``: trains the demo model from random weights, or resumes from a checkpoint."""

import argparse
import sys
from pathlib import Path

import torch

from training.plan import Plan
from training.run import Training

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Parse, train, write the model's folder, score it and draw its contact sheet."""
    defaults = Plan()
    parser = argparse.ArgumentParser(prog="scripts/train_demo_model", description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=ROOT / "build" / "demo_model", help="checkpoints go here"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "models" / "demo" / "weights")
    parser.add_argument("--start", type=Path, help="a model's folder, to begin with the layers that fit")
    for name, default, meaning in (
        ("seed", defaults.seed, "of weights, clips and noise"),
        ("clips", defaults.clips, "that the transformer is trained on"),
        ("vae_steps", defaults.vae_steps, "of the VAE"),
        ("flow_steps", defaults.flow_steps, "of transformer and text encoder"),
        ("flow_batch", defaults.flow_batch, "clips of each such step"),
        ("student_clips", defaults.student_clips, "that the teacher makes for the 4-step student"),
        ("student_steps", defaults.student_steps, "of the 4-step student"),
        ("scored", defaults.scored, "prompts of the score at the end"),
    ):
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=int, default=default, help=f"{meaning} (default {default})")
    parser.add_argument("--eager", dest="compiled", action="store_false", help="compile nothing")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    options = vars(parser.parse_args())
    if (threads := options.pop("threads")) is not None:
        torch.set_num_threads(threads)
    work, out = options.pop("work"), options.pop("out")
    Training(Plan(**options), work, out, lambda line: print(line, file=sys.stderr, flush=True)).run()


if __name__ == "__main__":
    main()
