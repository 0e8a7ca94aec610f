"""Weights in training, their running mean and the step counter, resumable at any step."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

_WARM_UP_STEPS = 100
_COOL_DOWN = 0.3
"""The share of all steps, the last ones, in which the learning rate falls to a hundredth."""
_MOMENTS = {torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"), torch.optim.Muon: ("momentum_buffer",)}
"""What each optimiser keeps of a weight."""


class Trained:
    """Optimisers over ``modules`` for ``steps`` steps, and the exponential mean of the weights.

    The matrices of linear layers take steps of Muon (Jordan et al., 2024), as large as AdamW's would be; all
    else takes AdamW's.

    ``save`` and ``load`` cover everything that the next step depends on, so that a resumed training ends in
    the same bits. Resumed with more ``steps`` than before, it continues at the full learning rate.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        *,
        steps: int,
        learning_rate: float,
        mean_over: int = 1000,
        weight_decay: float = 0.01,
    ) -> None:
        self.steps = steps
        self.step = 0
        self._mean_over = mean_over
        self._learning_rate = learning_rate
        self._named = {
            f"{name}.{key}": value
            for name, module in modules.items()
            for key, value in module.named_parameters()
            if value.requires_grad
        }
        self._mean = {name: value.detach().clone() for name, value in self._named.items()}
        self._optimizers = _optimizers(
            list(self._named.values()), _matrices(modules.values()), learning_rate, weight_decay
        )

    @property
    def is_done(self) -> bool:
        """Return whether all steps have been taken."""
        return self.step >= self.steps

    def update(self, loss: Tensor) -> None:
        """Take one optimiser step on ``loss``."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self._rate()
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._named.values(), 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
        self.step += 1
        # a larger weight at first, so that the mean soon forgets the first steps
        weight = 1 / min(self._mean_over, 1 + self.step / 10)
        with torch.no_grad():
            torch._foreach_lerp_(list(self._mean.values()), list(self._named.values()), weight)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights and their running mean; calling it twice restores the weights."""
        for name, value in self._named.items():
            newest = value.clone()
            value.copy_(self._mean[name])
            self._mean[name].copy_(newest)

    def freeze(self) -> None:
        """Stop training these weights."""
        for value in self._named.values():
            value.requires_grad_(False)

    def save(self, folder: Path) -> None:
        """Write a checkpoint atomically."""
        tensors = {f"weights.{name}": value.detach() for name, value in self._named.items()}
        tensors |= {f"mean.{name}": value for name, value in self._mean.items()}
        for name, value in self._named.items():
            for optimizer in self._optimizers:
                for key, moment in optimizer.state.get(value, {}).items():
                    tensors[f"{key}.{name}"] = moment
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / "checkpoint.partial"
        save_file(
            {name: value.contiguous() for name, value in tensors.items()}, partial, {"step": str(self.step)}
        )
        os.replace(partial, folder / "checkpoint.safetensors")

    def load(self, folder: Path) -> bool:
        """Load the checkpoint in ``folder``. Return whether there is one."""
        file = folder / "checkpoint.safetensors"
        if not file.is_file():
            return False
        tensors = load_file(file)
        with torch.no_grad():
            for name, value in self._named.items():
                value.copy_(tensors[f"weights.{name}"])
                self._mean[name].copy_(tensors[f"mean.{name}"])
                for optimizer in self._optimizers:
                    moments = _MOMENTS[type(optimizer)]
                    if f"{moments[-1]}.{name}" in tensors:
                        optimizer.state[value] = {
                            key: tensors[f"{key}.{name}"].to(value.device) for key in moments
                        }
        self.step = int(_metadata(file)["step"])
        return True

    def _rate(self) -> float:
        warm = min(1.0, (self.step + 1) / _WARM_UP_STEPS)
        left = (self.steps - self.step) / (self.steps * _COOL_DOWN)
        return (
            self._learning_rate
            * warm
            * (1.0 if left >= 1 else 0.01 + 0.99 * 0.5 * (1 - math.cos(math.pi * left)))
        )


def _matrices(modules: Iterable[nn.Module]) -> frozenset[int]:
    """Return the ids of the linear layers' weights."""
    layers = (layer for module in modules for layer in module.modules())
    return frozenset(id(layer.weight) for layer in layers if isinstance(layer, nn.Linear))


def _optimizers(
    weights: Sequence[nn.Parameter], matrices: frozenset[int], rate: float, decay: float
) -> Sequence[Optimizer]:
    """Return Muon for the ``matrices``, if there are any, and AdamW for the other weights; vectors do not
    decay.
    """
    taken = [each for each in weights if id(each) in matrices]
    tensors = [each for each in weights if id(each) not in matrices and each.ndim > 1]
    vectors = [each for each in weights if each.ndim <= 1]
    groups = [{"params": tensors, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)
    if not taken:
        return (adam,)
    return adam, torch.optim.Muon(taken, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")


def _metadata(file: Path) -> dict[str, str]:
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        metadata: dict[str, str] = json.loads(opened.read(length))["__metadata__"]
    return metadata
