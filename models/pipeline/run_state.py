"""The state of a run between two steps: copied to the host, and put back into a run of the same request.

Pictures, prompts and LoRAs are not in it: the run that goes on is prepared anew, to the same bits.
"""

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from models.engine import PendingSnapshot, Snapshot
from models.errors import ModelError
from models.pipeline.generation import WanGeneration
from models.pipeline.readback import Readback

_LATENTS = "latents"
_SIGMAS = "sigmas"
"""Noise levels of the schedule, float64: a run with another one cannot go on."""


def copied(run: WanGeneration) -> PendingSnapshot | None:
    """Begin to copy the state of a run; return None for one that was cut short or whose steps are cached."""
    has_steps_left = run.step < run.total_steps
    if run.is_cut or (has_steps_left and any(cache is not None for cache in run.caches)):
        return None
    state = {_LATENTS: run.latents, _SIGMAS: _sigmas(run)}
    if has_steps_left:
        state |= {_solvers(name): tensor for name, tensor in run.solver.state.items()}
    copies = {name: Readback(tensor) for name, tensor in state.items()}
    fragment, step = run.fragment, run.step
    return lambda: Snapshot(fragment, step, {name: copy.array() for name, copy in copies.items()})


def put_back(run: WanGeneration, snapshot: Snapshot) -> None:
    """Set a prepared run to a snapshot.

    Raises ``ModelError`` for one of another fragment, size or schedule.
    """
    arrays = snapshot.arrays
    grown = run.noise if snapshot.step > run.small_steps else None
    shape = (run.latents if grown is None else grown).shape
    fits = (
        (snapshot.fragment, run.step) == (run.fragment, 0)
        and snapshot.step <= run.total_steps
        and {_LATENTS, _SIGMAS} <= arrays.keys()
        and torch.equal(_tensor(arrays[_SIGMAS]), _sigmas(run))
        and all(array.shape == shape for name, array in arrays.items() if name != _SIGMAS)
    )
    if not fits:
        raise ModelError("The snapshot is not of this run.")
    device = run.latents.device
    run.latents = _tensor(arrays[_LATENTS]).to(device)
    if grown is not None:
        run.noise = None
    run.solver.resume(_of_solver(arrays, device))
    run.step = snapshot.step


def _of_solver(arrays: Mapping[str, NDArray[Any]], device: torch.device) -> Mapping[str, Tensor]:
    begin = _solvers("")
    return {
        name.removeprefix(begin): _tensor(array).to(device)
        for name, array in arrays.items()
        if name.startswith(begin)
    }


def _solvers(name: str) -> str:
    return f"solver.{name}"


def _sigmas(run: WanGeneration) -> Tensor:
    return torch.tensor(run.solver.schedule.sigmas, dtype=torch.float64)


def _tensor(array: NDArray[Any]) -> Tensor:
    # A copy: arrays from a file or from another process are read-only.
    return torch.from_numpy(array.copy())
