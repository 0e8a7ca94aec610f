"""Schedules and solvers against their formulas and against diffusers' scheduler."""

import pytest
import torch
from diffusers import UniPCMultistepScheduler

from models.pipeline.sampling import (
    Euler,
    UniPC,
    distilled_high_noise_steps,
    distilled_schedule,
    high_noise_steps,
    unipc_schedule,
)


def scheduler(steps: int, shift: float) -> UniPCMultistepScheduler:
    made = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    made.set_timesteps(steps)
    return made


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 8.0, 16.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 12, 30, 40, 50, 100])
def test_the_base_schedule_is_that_of_diffusers_to_the_last_bit(steps: int, shift: float) -> None:
    expected = scheduler(steps, shift)
    schedule = unipc_schedule(steps, shift)
    assert list(schedule.sigmas) == expected.sigmas.tolist()
    assert list(schedule.timesteps) == expected.timesteps.tolist()


def velocity_at(latents: torch.Tensor, timestep: float) -> torch.Tensor:
    """Return a velocity that depends on the latents and on the time."""
    return torch.sin(latents * 2 + timestep / 300) + 0.3 * latents


@pytest.mark.parametrize("shift", [1.0, 5.0, 8.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 15, 50])
def test_unipc_walks_where_diffusers_walks(steps: int, shift: float) -> None:
    expected_solver, solver = scheduler(steps, shift), UniPC(unipc_schedule(steps, shift))
    start = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    latents, expected = start, start
    for index, timestep in enumerate(expected_solver.timesteps):
        expected = expected_solver.step(
            velocity_at(expected, float(timestep)), timestep, expected, return_dict=False
        )[0]
        latents = solver.step(index, velocity_at(latents, float(timestep)), latents)
        torch.testing.assert_close(latents, expected, atol=2e-5, rtol=0)


def test_the_distilled_schedule_of_four_steps_at_shift_five() -> None:
    schedule = distilled_schedule(4, 5.0)
    assert schedule.sigmas == pytest.approx((1.0, 0.9375, 5 / 6, 0.625, 0.0), abs=1e-6)
    assert schedule.timesteps == pytest.approx((1000.0, 937.5, 5000 / 6, 625.0), abs=1e-6)


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 12.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 8])
def test_the_distilled_schedule_is_even_before_the_shift(steps: int, shift: float) -> None:
    plain = [1 - i / steps for i in range(steps)]
    expected = [shift * s / (1 + (shift - 1) * s) for s in plain]
    schedule = distilled_schedule(steps, shift)
    assert schedule.sigmas == pytest.approx([*expected, 0.0], abs=1e-6)
    assert schedule.timesteps == pytest.approx([1000 * s for s in expected], abs=1e-3)


def test_euler_adds_the_velocity_times_the_change_of_noise() -> None:
    solver = Euler(distilled_schedule(4, 5.0))
    latents, velocity = torch.tensor([2.0]), torch.tensor([4.0])
    assert solver.step(1, velocity, latents).item() == pytest.approx(2.0 + (5 / 6 - 0.9375) * 4.0)
    assert solver.step(3, velocity, latents).item() == pytest.approx(2.0 - 0.625 * 4.0)


@pytest.mark.parametrize(("shift", "boundary"), [(12.0, 0.875), (5.0, 0.9)])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 20, 40])
def test_a_low_noise_expert_takes_over_below_the_boundary(steps: int, shift: float, boundary: float) -> None:
    schedule = unipc_schedule(steps, shift)
    switch = high_noise_steps(schedule, boundary)
    assert all(timestep >= 1000 * boundary for timestep in schedule.timesteps[:switch])
    assert all(timestep < 1000 * boundary for timestep in schedule.timesteps[switch:])
    assert switch >= 1


def test_a_timestep_at_the_boundary_is_still_the_high_noise_experts() -> None:
    assert high_noise_steps(distilled_schedule(4, 1.0), 0.75) == 2


@pytest.mark.parametrize(("steps", "high"), [(1, 1), (2, 1), (3, 2), (4, 2), (8, 4)])
def test_distilled_experts_take_half_of_the_steps_each(steps: int, high: int) -> None:
    assert distilled_high_noise_steps(steps) == high


@pytest.mark.parametrize("solver", [UniPC(unipc_schedule(4, 5.0)), Euler(distilled_schedule(4, 5.0))])
def test_a_solver_tells_its_newest_prediction_of_the_clean_latents(solver: Euler | UniPC) -> None:
    predictions: list[torch.Tensor | None] = [solver.clean]
    latents = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for index, sigma in enumerate(solver.schedule.sigmas[:-1]):
        velocity = velocity_at(latents, index)
        expected = latents - sigma * velocity
        latents = solver.step(index, velocity, latents)
        predictions.append(solver.clean)
        assert solver.clean is not None and torch.equal(solver.clean, expected)
    assert predictions[0] is None
    torch.testing.assert_close(predictions[-1], latents, atol=1e-6, rtol=0)
