"""The demo model's marks for following its prompts: plain, and under each setting that costs quality."""

import argparse
import json
from dataclasses import asdict, replace

import torch

from bench.machine import describe
from models.attention.approximation import Approximation
from models.attention.kernels import fp8_in_plain_torch
from models.attention.sparse import SparseAttention
from models.demo.exam import WEIGHTS, Marks, answers, marks, settings_of
from models.engine import EngineSettings
from models.errors import TuningError
from models.loading import load_engine
from models.networks.autoencoder import WanAutoencoder
from models.pipeline.wan_engine import WanEngine
from models.transformer.denoiser import Denoiser
from models.tuning import Tuning
from models.vae.conv_form import eight_bit_form
from models.vae.streaming_vae import StreamingVae
from models.variants import VARIANTS
from models.weights.carrier import Carrier
from models.weights.stored_module import StoredModule

_PLAIN = settings_of(VARIANTS["demo"])
SETTINGS = {
    "plain": _PLAIN,
    "bfloat16": replace(_PLAIN, dtype="bfloat16"),
    "fp8": replace(_PLAIN, options={"fp8": True}),
    "cache_threshold 0.1": replace(_PLAIN, options={"cache_threshold": 0.1}),
    "unguided_steps 0.3": replace(_PLAIN, options={"unguided_steps": 0.3}),
    "unguided_steps 0.5": replace(_PLAIN, options={"unguided_steps": 0.5}),
    "low_resolution_steps 0.3": replace(_PLAIN, options={"low_resolution_steps": 0.3}),
    "low_resolution_steps 0.5": replace(_PLAIN, options={"low_resolution_steps": 0.5}),
    "4 steps": settings_of(VARIANTS["demo-distill"]),
}
_TOKENS = 4
"""Tokens of a block for sparse attention: a clip of the demo model has 105, less than one block of a GPU."""
APPROXIMATIONS = {
    "attention in 8 bits": Approximation(fp8_in_plain_torch),
    "sparsity 0.3": Approximation(SparseAttention(0.3, _TOKENS), in_order=True),
    "sparsity 0.5": Approximation(SparseAttention(0.5, _TOKENS), in_order=True),
}
"""What ``attention: flash3_fp8`` and ``sparsity`` do on a GPU, by the plain torch that defines it; the first
steps and the first block are exact, as by default.
"""
IN_8_BITS = "vae_fp8"
"""A setting that does on a GPU what plain torch does here for it."""
_COLUMNS = ("background", "colour", "shape", "motion", "everything", "first_frame")


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="scripts/bench demo", description=__doc__)
    parser.add_argument("--prompts", type=int, default=100, help="of each setting and task (default 100)")
    parser.add_argument("--only", choices=(*SETTINGS, *APPROXIMATIONS, IN_8_BITS), help="this setting alone")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args(arguments)
    print(f"{describe()}; {torch.get_num_threads()} threads\n")
    print("| task | setting | background | colour | shape | motion | all four | first frame | s a clip |")
    print("|---|---|---|---|---|---|---|---|---|")
    told: dict[str, Marks] = {}
    for task in ("t2v", "i2v"):
        for name in (*SETTINGS, *APPROXIMATIONS, IN_8_BITS):
            settings = SETTINGS.get(name, _PLAIN)
            if options.only in (None, name):
                try:
                    engine = _engine(replace(settings, device=options.device), name)
                except TuningError as error:  # some settings are for GPUs alone
                    print(f"| {task} | {name} | not here: {error} | | | | | | |", flush=True)
                    continue
                given = answers(engine, settings.variant, options.prompts, from_pictures=task == "i2v")
                told[f"{task}, {name}"] = found = marks(given)
                print(f"| {task} | {name} | {_cells(found)} |", flush=True)
    if options.json:
        print(json.dumps({name: asdict(each) for name, each in told.items()}))
    return 0


def _engine(settings: EngineSettings, name: str) -> WanEngine:
    """Load the engine of a setting, or put plain torch in it for what the setting does on a GPU."""
    engine, approximation = load_engine(settings), APPROXIMATIONS.get(name)
    if approximation is not None:
        denoiser = Denoiser(engine.parts.denoiser.transformer, approximation=approximation)
        parts = replace(engine.parts, denoiser=denoiser)
        return WanEngine(engine.variant, parts, exact_steps=Tuning().exact_steps)
    if name != IN_8_BITS:
        return engine
    device = engine.parts.denoiser.device
    vae = StoredModule(WanAutoencoder, WEIGHTS / "vae").load(Carrier(device), torch.float32)
    in_8_bits = StreamingVae(vae, large=eight_bit_form(device))
    return WanEngine(engine.variant, replace(engine.parts, vae=in_8_bits))


def _cells(found: Marks) -> str:
    shares = [getattr(found, column) for column in _COLUMNS]
    return " | ".join([*("" if each is None else f"{each:.0%}" for each in shares), f"{found.seconds:.2f}"])
