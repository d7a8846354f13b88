"""Rectified flow in the frame z = z0 + sigma noise: its schedule, its row of `PREDICTIONS`, and training times."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from minip2p.config import ScheduleConfig
from minip2p.diffusion import SAMPLERS, SPACINGS, BetaSchedule, Cond, Denoiser, FlowSchedule, get_sampler, make_schedule
from minip2p.training.rng import TIMES

law = settings(deadline=None, max_examples=50)
FLOW = FlowSchedule()
MEAN, SPREAD = 0.7, 0.4
NULL = Cond(torch.zeros(1, 1, 1).double())


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def velocity(x, t, text, control=()):
    """E[noise - z0 | x] for data N(MEAN, SPREAD^2) and x = (1 - t) z0 + t noise, in closed form."""
    t = (t / 1000).reshape(-1, 1, 1, 1)
    z0 = MEAN + SPREAD**2 * (1 - t) / ((1 - t) ** 2 * SPREAD**2 + t**2) * (x - (1 - t) * MEAN)
    noise = (x - (1 - t) * z0) / t
    return noise - z0


def trajectory(z, sigma, after):
    """Where the probability flow of that data takes z."""
    return MEAN + (z - MEAN) * ((SPREAD**2 + after**2) / (SPREAD**2 + sigma**2)) ** 0.5


# The schedule


@law
@given(st.floats(1, 999), st.floats(0.1, 12))
def test_time_and_level_are_inverse(t, shift):
    schedule = FlowSchedule(shift=shift)
    sigma = schedule.sigma(t)
    assert_close(schedule.t(sigma).item(), t, rtol=1e-9, atol=1e-9)
    published = shift * (t / 1000) / (1 + (shift - 1) * t / 1000)  # Esser et al. 2024, eq. 23
    assert_close((sigma / (1 + sigma)).item(), published, rtol=1e-9, atol=1e-9)


@law
@given(
    st.integers(1, 2500), st.sampled_from(sorted(SPACINGS)), st.sampled_from([3, 10, 1000]), st.sampled_from([1.0, 3.0])
)
def test_levels_fall_to_zero_for_any_number_of_steps(n, spacing, steps, shift):
    schedule = FlowSchedule(steps, shift)
    sigmas = schedule.sigmas_for(n, spacing)
    assert sigmas.shape == (n + 1,) and sigmas[-1] == 0 and (sigmas.diff() < 0).all()
    assert sigmas[0] <= schedule.sigma_max * (1 + 1e-9)
    if spacing != "leading":
        assert math.isclose(sigmas[0], schedule.sigma_max, rel_tol=1e-9)


def test_the_config_names_it():
    assert make_schedule(ScheduleConfig(kind="flow", shift=3.0)) == FlowSchedule(1000, 3.0)
    assert make_schedule(ScheduleConfig()) == BetaSchedule()
    assert [FLOW.t(sigma).item() for sigma in (0.0, 1.0, math.inf)] == [1, 500, 999]


@pytest.mark.parametrize("wrong", [{"steps": 2}, {"shift": 0.0}, {"shift": math.nan}])
def test_impossible_schedules_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        FlowSchedule(**wrong)


# The prediction


@law
@given(st.floats(0.001, 999))
def test_the_true_velocity_gives_the_true_denoiser(sigma):
    z = MEAN + sigma * randn(2, 1, 3, 3)
    exact = MEAN + SPREAD**2 / (SPREAD**2 + sigma**2) * (z - MEAN)
    for schedule in (FLOW, FlowSchedule(shift=3.0), BetaSchedule()):  # what the network gets is the row's alone
        assert_close(Denoiser(velocity, schedule, "flow")(z, sigma, NULL), exact, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("dtype, bound", [(torch.float64, 2e-2), (torch.float32, 2e-2)])
@pytest.mark.parametrize("sampler", ["euler", "ddim", "heun", "dpmpp_2m"])
def test_samples_follow_the_closed_form_from_nearly_pure_noise(sampler, dtype, bound):
    denoiser, sigmas = Denoiser(velocity, FLOW, "flow"), FLOW.sigmas_for(200)
    z = (FLOW.sigma_max * randn(4, 1, 2, 2)).to(dtype)
    null = Cond(NULL.text.to(dtype))
    for step in get_sampler(sampler)(lambda z, sigma: denoiser(z, sigma, null), z, sigmas, noise=None):
        exact = trajectory(z.double(), sigmas[0], sigmas[step.i + 1])
        error = (step.z - exact).abs().max() / (1 + sigmas[step.i + 1])  # in the flow's own frame
        assert error < bound


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_finds_the_datas_mean_and_spread(sampler):
    generator = torch.Generator().manual_seed(0)

    def noise():
        return torch.randn(1, 1, 100, 100, generator=generator)

    denoiser, sigmas = Denoiser(velocity, FLOW, "flow"), FLOW.sigmas_for(300)
    *_, last = get_sampler(sampler)(
        lambda z, sigma: denoiser(z, sigma, Cond(torch.zeros(1, 1, 1))), noise() * sigmas[0].item(), sigmas, noise=noise
    )
    assert last.z.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert last.z.std().item() == pytest.approx(SPREAD, rel=0.03)


# Training times


@law
@given(st.integers(0, 10**6))
def test_logit_normal_times_are_a_normal_log_sigma(seed):
    """t = sigmoid(normal) is sigma = t / (1 - t) = exp(normal)."""
    u = torch.rand(4000, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    t = (TIMES["logit_normal"](u, FLOW) - FLOW.first) / (FLOW.last - FLOW.first)
    assert ((t > 0) & (t < 1)).all() and torch.equal(t.argsort(), u.argsort())
    assert_close(t.logit(), torch.special.ndtri(u), rtol=1e-6, atol=1e-6)
    logs = FLOW.sigma(FLOW.first + t * (FLOW.last - FLOW.first)).log()
    assert abs(logs.mean().item()) < 0.08 and abs(logs.std().item() - 1) < 0.06


@pytest.mark.parametrize("schedule", [FLOW, FlowSchedule(shift=3.0), BetaSchedule()])
def test_fractions_span_the_training_times(schedule):
    levels = schedule.sigma(TIMES["uniform"](torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), schedule))
    assert levels[0] == pytest.approx(schedule.sigma_min) and levels[2] == pytest.approx(schedule.sigma_max)
    assert_close(schedule.t(levels[1]).item(), (schedule.first + schedule.last) / 2, rtol=0, atol=1e-6)
