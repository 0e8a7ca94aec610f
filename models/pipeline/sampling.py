"""Sigma schedules and the two solvers (Euler, UniPC). Schedules are plain floats; solvers work on tensors.

A flow-matching model predicts the velocity v = ε − x0 from data x0 to noise ε, along x_σ = (1 − σ)·x0 + σ·ε.
So x0 = x − σ·v (Lipman et al. 2023, "Flow Matching for Generative Modeling", arXiv:2210.02747).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import expm1, log
from typing import Protocol

import numpy as np
from torch import Tensor

TRAIN_TIMESTEPS = 1000


@dataclass(frozen=True, slots=True)
class Schedule:
    """Noise levels: ``sigmas`` before each step and, last, 0; ``timesteps`` are the model's inputs."""

    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]


def shifted(sigma: float, shift: float) -> float:
    """Shift a noise level towards 1, as larger videos need (Esser et al. 2024, arXiv:2403.03206)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def unipc_schedule(steps: int, shift: float) -> Schedule:
    """Return the base models' schedule: σ from 1 towards 1/1000 in equal steps, then shifted.

    Bitwise equal to diffusers' ``UniPCMultistepScheduler`` with flow sigmas: timesteps are truncated to
    integers, σ is rounded to float32, and the first σ stays below 1, where log(1 − σ) is undefined.
    """
    sigmas = [shifted(float(s), shift) for s in np.linspace(1.0, 1.0 / TRAIN_TIMESTEPS, steps + 1)[:-1]]
    if abs(sigmas[0] - 1.0) < 1e-6:
        sigmas[0] -= 1e-6
    timesteps = tuple(float(int(s * TRAIN_TIMESTEPS)) for s in sigmas)
    return Schedule(sigmas=(*(float(np.float32(s)) for s in sigmas), 0.0), timesteps=timesteps)


def distilled_schedule(steps: int, shift: float) -> Schedule:
    """Return the distilled schedule: 1000·k/steps for k = steps … 1 (1000, 750, 500, 250), then shifted."""
    sigmas = [shifted(k / steps, shift) for k in range(steps, 0, -1)]
    return Schedule(sigmas=(*sigmas, 0.0), timesteps=tuple(s * TRAIN_TIMESTEPS for s in sigmas))


def high_noise_steps(schedule: Schedule, boundary: float) -> int:
    """Count the steps of the high-noise expert: those with a noise level at or above the boundary."""
    return sum(timestep >= boundary * TRAIN_TIMESTEPS for timestep in schedule.timesteps)


def distilled_high_noise_steps(steps: int) -> int:
    """Count a distilled model's high-noise steps: half of them, as in training, at any shift."""
    return (steps + 1) // 2


class Solver(Protocol):
    """An ODE solver for one pass over one schedule. Holds the state between two steps."""

    @property
    def schedule(self) -> Schedule:
        """Noise levels and timesteps, in order."""

    @property
    def clean(self) -> Tensor | None:
        """Latest prediction of x0; None before the first step."""

    @property
    def state(self) -> Mapping[str, Tensor]:
        """What the solver carries from one step to the next, each of the latents' shape."""

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Take up the state of a solver of the same kind and schedule."""

    def restart(self) -> None:
        """Forget all steps before: the next starts from other latents, of which none is known."""

    def step(self, index: int, velocity: Tensor, latents: Tensor) -> Tensor:
        """Return the latents at ``sigmas[index + 1]``, from the latents and the velocity at
        ``sigmas[index]``.
        """


class Euler:
    """The first-order Euler solver: x ← x + (σ_next − σ)·v."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.clean: Tensor | None = None

    @property
    def state(self) -> Mapping[str, Tensor]:
        """The prediction of x0, which only a preview and an early end need."""
        return {} if self.clean is None else {"clean": self.clean}

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Take up the prediction of x0."""
        self.clean = state.get("clean")

    def restart(self) -> None:
        """Forget the prediction."""
        self.clean = None

    def step(self, index: int, velocity: Tensor, latents: Tensor) -> Tensor:
        """Take one Euler step from noise level ``index`` to the next."""
        sigma, sigma_next = self.schedule.sigmas[index : index + 2]
        self.clean = latents - sigma * velocity
        return latents + (sigma_next - sigma) * velocity


class UniPC:
    """The UniPC solver of order 2 with B(h) = e^h − 1 ("bh2"), on predictions of x0.

    Source: Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework", arXiv:2302.04867. Each step
    first corrects the current latents with the new prediction (UniC), then predicts the next latents (UniP);
    the last step returns the predicted x0. The coefficients are Python floats, so a step is a few
    multiply-adds and never synchronises with the device.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        # λ = log((1 − σ)/σ), half the log of the signal-to-noise ratio; undefined for the final σ = 0
        self._lambdas = [log((1 - s) / s) for s in schedule.sigmas[:-1]]
        self._clean: list[Tensor] = []  # the last two x0 predictions, the newest last
        self._start: Tensor | None = None  # latents that the last predictor step started from
        self._order = 1  # order of the last predictor step

    @property
    def clean(self) -> Tensor | None:
        """Latest prediction of the clean latents (x0); None before the first step."""
        return self._clean[-1] if self._clean else None

    @property
    def state(self) -> Mapping[str, Tensor]:
        """The last two predictions of x0, the newest last, and where the last predictor step started."""
        if self._start is None:
            return {}
        return {"start": self._start, **{f"clean_{age}": clean for age, clean in enumerate(self._clean)}}

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Take up the predictions and the start."""
        self._clean = [state[name] for name in ("clean_0", "clean_1") if name in state]
        self._start = state.get("start")
        self._order = max(len(self._clean), 1)

    def restart(self) -> None:
        """Forget the predictions: the next step is of the first order and corrects nothing."""
        self.resume({})

    def step(self, index: int, velocity: Tensor, latents: Tensor) -> Tensor:
        """Correct the last step, then predict the latents at the next noise level."""
        clean = latents - self.schedule.sigmas[index] * velocity
        if self._start is not None:
            latents = self._corrected(index, clean, self._start)
        self._clean = [*self._clean[-1:], clean]
        self._order = len(self._clean)
        self._start = latents
        return self._predicted(index, latents)

    def _predicted(self, index: int, start: Tensor) -> Tensor:
        """Take a predictor step (UniP) from ``sigmas[index]`` to ``sigmas[index + 1]``."""
        sigma, sigma_next = self.schedule.sigmas[index : index + 2]
        clean = self._clean[-1]
        if sigma_next == 0.0:
            return clean
        h = self._lambdas[index + 1] - self._lambdas[index]
        b = (1 - sigma_next) * expm1(-h)
        if self._order == 1:
            return (sigma_next / sigma) * start - b * clean
        slope = 0.5 * b / self._ratio(index, h)
        return (sigma_next / sigma) * start - (b - slope) * clean - slope * self._clean[-2]

    def _corrected(self, index: int, clean: Tensor, start: Tensor) -> Tensor:
        """Take a corrector step (UniC): recompute the latents at ``sigmas[index]`` from the new x0."""
        sigma_before, sigma = self.schedule.sigmas[index - 1 : index + 1]
        h = self._lambdas[index] - self._lambdas[index - 1]
        b = (1 - sigma) * expm1(-h)
        before = self._clean[-1]
        moved = (sigma / sigma_before) * start
        if self._order == 1:
            return moved - 0.5 * b * (clean + before)
        ratio = self._ratio(index - 1, h)
        phi_1 = expm1(-h) / -h - 1
        phi_2 = phi_1 / -h - 0.5
        b_1, b_2 = phi_1 / expm1(-h), 2 * phi_2 / expm1(-h)
        # weights of the older and the newer difference: solution of [[1, 1], [ratio, 1]] · w = [b_1, b_2]
        w_old, w_new = (b_1 - b_2) / (1 - ratio), (b_2 - ratio * b_1) / (1 - ratio)
        old = w_old / ratio
        return moved - b * (w_new * clean + old * self._clean[-2] + (1 - w_new - old) * before)

    def _ratio(self, index: int, h: float) -> float:
        """Return the older prediction's distance in λ, in units of ``h``; negative."""
        return (self._lambdas[index - 1] - self._lambdas[index]) / h
