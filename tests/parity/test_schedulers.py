"""Samplers against diffusers' schedulers, and against k-diffusion's and CompVis' formulas written out here.

diffusers' samplers are fed our noise levels in float64, so that what is compared is their steps, not the rounding of
their tables (compared once, by itself). Theirs hold the variance-preserving latent z / sqrt(sigma^2 + 1) in DDPM, DDIM
and DPM-Solver++, and z itself in Euler's and Heun's methods, where they scale the network's input.
"""

import diffusers
import pytest
import torch
from torch.testing import assert_close

from minip2p.diffusion import (
    BetaSchedule,
    Cond,
    Denoiser,
    FlowSchedule,
    Noise,
    ddim,
    ddpm,
    dpmpp_2m,
    euler,
    euler_ancestral,
    guided,
    heun,
    three_way,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
SCHEDULE = BetaSchedule()
SHAPE = (2, 4, 6, 6)
CLOSE = {"rtol": 1e-9, "atol": 1e-9}
SINGLE = {"rtol": 1e-5, "atol": 1e-5}  # where diffusers steps in float32 whatever it is given
CONV = torch.nn.functional.conv2d


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(x, t, text=None, control=()):
    """A fixed smooth function of (x, t, text) with random weights: something between a network and its noise."""
    weight = 0.2 * randn(4, x.shape[1], 3, 3, seed=11).to(x)
    drift = torch.sin(t.to(x) / 200).reshape(-1, 1, 1, 1)
    shift = 0 if text is None else text.mean(dim=(1, 2)).to(x).reshape(-1, 1, 1, 1)
    return 0.7 * x[:, :4] + torch.tanh(CONV(x, weight, padding=1) + drift + shift)


NETWORKS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}


def ours(sampler, z, sigmas, predict="epsilon", **keywords):
    """Every latent of our sampler, from z at sigmas[0]."""
    field = guided(Denoiser(network, SCHEDULE, NETWORKS[predict]), [(1.0, Cond(torch.zeros(1, 1, 1).double()))])
    return [step.z for step in sampler(field, z, sigmas, **{"noise": None} | keywords)]


def draws():
    """A noise callable, from its start; a generator of the same seed gives diffusers the same numbers."""
    generator = torch.Generator().manual_seed(3)
    return lambda: torch.randn(SHAPE, generator=generator, dtype=torch.float64)


def scheduler_of(kind, **words):
    """A diffusers scheduler of Stable Diffusion's betas, with our float64 table of alphas in place of its float32."""
    scheduler = kind(**STABLE, **words)
    scheduler.alphas_cumprod = SCHEDULE.alphas_cumprod
    return scheduler


def scale(sigma):
    """Of the variance-preserving latent: 1 / sqrt(sigma^2 + 1)."""
    return 1 / (float(sigma) ** 2 + 1) ** 0.5


# ------------------------------------------------------------------------------------------------------------ tables


@pytest.mark.parametrize("ours, theirs", [("scaled_linear",) * 2, ("linear",) * 2, ("cosine", "squaredcos_cap_v2")])
@pytest.mark.parametrize("steps", [50, 1000])
def test_tables(ours, theirs, steps):
    schedule = BetaSchedule(ours, 0.0001, 0.02, steps)
    scheduler = diffusers.DDPMScheduler(steps, 0.0001, 0.02, theirs)
    assert_close(schedule.betas.float(), scheduler.betas, rtol=2e-6, atol=1e-8)
    assert_close(schedule.alphas_cumprod.float(), scheduler.alphas_cumprod, rtol=1e-4, atol=1e-7)


def test_stable_diffusions_table():
    assert_close(SCHEDULE.alphas_cumprod.float(), diffusers.DDIMScheduler(**STABLE).alphas_cumprod, rtol=2e-5, atol=0)


@pytest.mark.parametrize("n", [7, 50, 100])
def test_levels_and_times(n):
    scheduler = diffusers.EulerDiscreteScheduler(**STABLE, timestep_spacing="linspace")
    scheduler.set_timesteps(n)
    assert_close(SCHEDULE.t(SCHEDULE.sigmas_for(n)[:-1]).float(), scheduler.timesteps.float(), rtol=1e-6, atol=1e-3)
    assert_close(SCHEDULE.sigmas_for(n).float(), scheduler.sigmas, rtol=0, atol=1e-4)  # they interpolate sigma itself

    scheduler = diffusers.EulerDiscreteScheduler(**STABLE, use_karras_sigmas=True)
    scheduler.set_timesteps(n)
    assert_close(SCHEDULE.sigmas_for(n, "karras").float(), scheduler.sigmas, rtol=1e-5, atol=1e-6)

    scheduler = diffusers.DDIMScheduler(**STABLE, timestep_spacing="leading", steps_offset=1)
    scheduler.set_timesteps(n)
    times = SCHEDULE.t(SCHEDULE.sigmas_for(n, "leading")[:-1])
    assert_close(times, scheduler.timesteps.double(), rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------- samplers in the preserving frame


@pytest.mark.parametrize("predict", NETWORKS)
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("to_zero", [True, False])
def test_ddim(predict, eta, to_zero):
    """`to_zero` False is Stable Diffusion's published setting: the last level is the first training level, not 0."""
    words = {"prediction_type": predict, "clip_sample": False, "set_alpha_to_one": to_zero, "steps_offset": 1}
    scheduler = scheduler_of(diffusers.DDIMScheduler, **words)
    scheduler.final_alpha_cumprod = torch.tensor(1.0).double() if to_zero else SCHEDULE.alphas_cumprod[0]
    scheduler.set_timesteps(20)
    sigmas = SCHEDULE.sigmas_for(20, "leading")
    sigmas[-1] = 0 if to_zero else SCHEDULE.sigmas[0]
    z = sigmas[0] * randn(*SHAPE)
    latents = ours(ddim, z, sigmas, predict, noise=draws(), eta=eta)
    x, noise = z * scale(sigmas[0]), draws()
    for i, t in enumerate(scheduler.timesteps):
        drawn = noise() if eta and sigmas[i + 1] > 0 else torch.zeros(SHAPE).double()
        x = scheduler.step(network(x, t), t, x, eta=eta, variance_noise=drawn).prev_sample
        assert_close(latents[i] * scale(sigmas[i + 1]), x, **CLOSE)


@pytest.mark.parametrize("predict", NETWORKS)
@pytest.mark.parametrize("n", [10, 1000])
def test_ddpm(predict, n):
    """diffusers too draws only while there is a next level, for this one."""
    words = {"prediction_type": predict, "clip_sample": False, "variance_type": "fixed_small"}
    scheduler = scheduler_of(diffusers.DDPMScheduler, **words)
    scheduler.one = torch.tensor(1.0).double()
    scheduler.set_timesteps(n)
    sigmas = torch.cat([SCHEDULE.sigma(scheduler.timesteps.double()), torch.zeros(1).double()])
    z, generator = sigmas[0] * randn(*SHAPE), torch.Generator().manual_seed(3)
    latents = ours(ddpm, z, sigmas, predict, noise=draws())
    x = z * scale(sigmas[0])
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(network(x, t), t, x, generator=generator).prev_sample
        assert_close(latents[i] * scale(sigmas[i + 1]), x, rtol=1e-7, atol=1e-7)


def with_levels(scheduler, sigmas, times):
    """Give a diffusers scheduler of the sigma family our own levels."""
    scheduler.set_timesteps(len(sigmas) - 1)
    assert scheduler.sigmas.shape == sigmas.shape and scheduler.timesteps.shape == times.shape
    scheduler.sigmas, scheduler.timesteps = sigmas, times
    return scheduler


@pytest.mark.parametrize("predict", NETWORKS)
@pytest.mark.parametrize("spacing", ["linspace", "karras"])
@pytest.mark.parametrize("n", [1, 2, 12, 30])
def test_dpmpp_2m(predict, spacing, n):
    words = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint", "lower_order_final": True}
    sigmas = SCHEDULE.sigmas_for(n, spacing)
    times = SCHEDULE.t(sigmas[:-1])
    words |= {"final_sigmas_type": "zero", "prediction_type": predict}
    scheduler = with_levels(diffusers.DPMSolverMultistepScheduler(**STABLE, **words), sigmas, times)
    z = sigmas[0] * randn(*SHAPE)
    latents = ours(dpmpp_2m, z, sigmas, predict)
    x = z * scale(sigmas[0])
    for i, t in enumerate(times):
        x = scheduler.step(network(x, t), t, x).prev_sample
        assert_close(latents[i] * scale(sigmas[i + 1]), x, **SINGLE)


# ----------------------------------------------------------------------------------- samplers in the exploding frame


@pytest.mark.parametrize("predict", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["linspace", "karras"])
def test_euler(predict, spacing):
    sigmas = SCHEDULE.sigmas_for(15, spacing)
    times = SCHEDULE.t(sigmas[:-1])
    scheduler = with_levels(diffusers.EulerDiscreteScheduler(**STABLE, prediction_type=predict), sigmas, times)
    z = x = sigmas[0] * randn(*SHAPE)
    latents = ours(euler, z, sigmas, predict)
    for i, t in enumerate(times):
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x).prev_sample
        assert_close(latents[i], x, **SINGLE)


@pytest.mark.parametrize("predict", ["epsilon", "v_prediction"])
def test_euler_ancestral(predict):
    """diffusers draws at the last step as well, and multiplies by 0: the generator is one draw further, no more."""
    sigmas = SCHEDULE.sigmas_for(15)
    times = SCHEDULE.t(sigmas[:-1])
    scheduler = diffusers.EulerAncestralDiscreteScheduler(**STABLE, prediction_type=predict)
    with_levels(scheduler, sigmas, times)
    z = x = sigmas[0] * randn(*SHAPE)
    generator = torch.Generator().manual_seed(3)
    latents = ours(euler_ancestral, z, sigmas, predict, noise=draws())
    for i, t in enumerate(times):
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x, generator=generator).prev_sample
        assert_close(latents[i], x, **SINGLE)


@pytest.mark.parametrize("predict", ["epsilon", "v_prediction"])
def test_heun(predict):
    """diffusers' has one call an evaluation: every level but the first and the last stands twice in its lists."""
    sigmas = SCHEDULE.sigmas_for(15)
    times = SCHEDULE.t(sigmas[:-1])
    scheduler = diffusers.HeunDiscreteScheduler(**STABLE, prediction_type=predict)
    scheduler.set_timesteps(15)
    scheduler.sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
    scheduler.timesteps = torch.cat([times[:1], times[1:].repeat_interleave(2)])
    z = x = sigmas[0] * randn(*SHAPE)
    latents = ours(heun, z, sigmas, predict)
    results = []
    for t in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x).prev_sample
        results.append(x)
    assert len(results) == 2 * 15 - 1
    for mine, theirs in zip(latents, [*results[1::2], results[-1]]):
        assert_close(mine, theirs, **CLOSE)


# -------------------------------------------------------------------------- the originals, from their formulas


def kd_sigma(t, log_sigmas):
    """k-diffusion's DiscreteSchedule.t_to_sigma: log sigma between floor(t) and ceil(t)."""
    low, high, part = t.floor().long(), t.ceil().long(), t.frac()
    return ((1 - part) * log_sigmas[low] + part * log_sigmas[high]).exp()


def kd_t(sigma, log_sigmas):
    """Its inverse, by counting the levels below."""
    below = int((log_sigmas <= sigma.log()).sum().clamp(1, len(log_sigmas) - 1)) - 1
    part = (sigma.log() - log_sigmas[below]) / (log_sigmas[below + 1] - log_sigmas[below])
    return below + part.clamp(0, 1)


def kd_edit(seed, n, s_t, s_i, text, null, image):
    """The authors' sampler of one item in float32: k-diffusion's Euler-ancestral and denoiser, and their guidance."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas_cumprod = torch.cumprod(1 - betas, 0).float()
    log_sigmas = ((1 - alphas_cumprod) / alphas_cumprod).sqrt().log()
    sigmas = torch.cat([kd_sigma(torch.linspace(999, 0, n), log_sigmas), torch.zeros(1)])
    texts, images = torch.cat([text, null, null]), torch.cat([image, image, torch.zeros_like(image)])

    def denoise(z, sigma):
        rows = z.expand(3, *SHAPE[1:])
        x = torch.cat([rows / (sigma**2 + 1).sqrt(), images], dim=1)
        eps = network(x, kd_t(sigma, log_sigmas).expand(3), texts)
        conditional, image_only, none = (rows - sigma * eps).chunk(3)
        return none + s_t * (conditional - image_only) + s_i * (image_only - none)

    torch.manual_seed(seed)
    z = torch.randn_like(image) * sigmas[0]
    for sigma, after in zip(sigmas[:-1], sigmas[1:]):
        slope = (z - denoise(z, sigma)) / sigma
        up = min(after, (after**2 * (sigma**2 - after**2) / sigma**2).sqrt())
        down = (after**2 - up**2).sqrt()
        z = z + slope * (down - sigma)
        if after > 0:
            z = z + torch.randn_like(z) * up
    return z


@pytest.mark.parametrize("n", [1, 2, 30, 100])
@pytest.mark.parametrize("s_t, s_i", [(7.5, 1.5), (1.0, 1.0), (3.0, 0.5)])
def test_the_authors_sampler_seed_for_seed(n, s_t, s_i):
    text, null = randn(2, 5, 3).float(), randn(1, 5, 3, seed=1).float()
    image = randn(*SHAPE, seed=2).float()
    sigmas, noise = SCHEDULE.sigmas_for(n), Noise([42, 43], SHAPE[1:])
    field = guided(Denoiser(network, SCHEDULE), three_way(s_t, s_i, text, null, image))
    *_, step = euler_ancestral(field, noise.start(sigmas[0]), sigmas, noise=noise)
    state = torch.random.get_rng_state()
    theirs = [kd_edit(42 + i, n, s_t, s_i, text[i : i + 1], null, image[i : i + 1]) for i in range(2)]
    torch.random.set_rng_state(state)
    assert_close(step.z, torch.cat(theirs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", [20, 30, 50])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_compvis_ddim(n, eta):
    """Song et al., eq. 12, on CompVis' times (30 asked for are 31), ending at the first training level."""
    times = torch.arange(0, 1000, 1000 // n).flip(0) + 1
    sigmas = torch.cat([SCHEDULE.sigmas[times], SCHEDULE.sigmas[:1]])
    if 1000 % n == 0:
        assert_close(SCHEDULE.sigmas_for(n, "leading")[:-1], sigmas[:-1], **CLOSE)
    alphas = torch.cat([SCHEDULE.alphas_cumprod[times], SCHEDULE.alphas_cumprod[:1]])
    z, noise = sigmas[0] * randn(*SHAPE), draws()
    x = z * scale(sigmas[0])
    for t, a, before in zip(times, alphas, alphas[1:]):
        eps = network(x, t)
        deviation = eta * ((1 - before) / (1 - a) * (1 - a / before)).sqrt()
        x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
        x = before.sqrt() * x0 + (1 - before - deviation**2).sqrt() * eps
        if eta:
            x = x + deviation * noise()
    latents = ours(ddim, z, sigmas, noise=draws(), eta=eta)
    assert_close(latents[-1] * scale(sigmas[-1]), x, **CLOSE)


# ------------------------------------------------------------------------------------------------------------- flow


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("n", [1, 2, 7, 28])
def test_flow_matching(shift, n):
    """Their x is (1 - t) z0 + t noise = z / (1 + sigma), and their "sigma" is t."""
    schedule = FlowSchedule(shift=shift)
    sigmas = schedule.sigmas_for(n)
    t = sigmas / (1 + sigmas)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(sigmas=t[:-1].tolist())
    assert_close(scheduler.sigmas.double(), t, **SINGLE)
    noise = randn(*SHAPE)
    x, latents = t[0] * noise, [sigmas[0] * noise]
    field = guided(Denoiser(network, schedule, "flow"), [(1.0, Cond(torch.zeros(1, 1, 1).double()))])
    latents = [step.z for step in euler(field, sigmas[0] * noise, sigmas)]
    for time, after, z in zip(scheduler.timesteps, sigmas[1:], latents, strict=True):
        x = scheduler.step(network(x.double(), time.double()), time, x, return_dict=False)[0]
        assert_close(z / (1 + after), x.double(), **SINGLE)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("n", [10, 28])
def test_flow_matching_from_their_own_start(shift, n):
    """They start at t = 1, pure noise, we one training time of 1000 below: the samples differ by about as little."""
    schedule = FlowSchedule(shift=shift)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(n)
    sigmas = schedule.sigmas_for(n)
    assert_close((sigmas / (1 + sigmas))[0], scheduler.sigmas[0].double(), rtol=0, atol=1.001e-3)
    x = noise = randn(*SHAPE)
    for time in scheduler.timesteps:
        x = scheduler.step(network(x.double(), time.double()), time, x, return_dict=False)[0]
    field = guided(Denoiser(network, schedule, "flow"), [(1.0, Cond(torch.zeros(1, 1, 1).double()))])
    *_, last = euler(field, sigmas[0] * noise, sigmas)
    assert_close(last.z, x.double(), rtol=0, atol=2e-2)


def test_the_flow_loss():
    """The loss of diffusers' training scripts: model(scale_noise(z0, t, noise), 1000 t) against noise - z0."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    z0, noise, text = randn(*SHAPE), randn(*SHAPE, seed=1), torch.zeros(1, 1, 1).double()
    times = scheduler.timesteps[[120, 700]]
    noisy = scheduler.scale_noise(z0, times, noise)
    theirs = (network(noisy, times.double()) - (noise - z0)).square().mean(dim=(1, 2, 3))
    sigma = times.double() / (1000 - times.double())
    ours = Denoiser(network, FlowSchedule(), "flow").loss(z0, noise, sigma, Cond(text))
    assert_close(ours, theirs, **SINGLE)


def test_zero_terminal_snr_is_diffusers_rescaling():
    """Lin et al. 2023: the last time is noise alone, sigma 4096, and the first stays as it was."""
    theirs = diffusers.EulerAncestralDiscreteScheduler(
        **STABLE, rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction"
    )
    schedule = BetaSchedule(kind="zero_snr")
    assert_close(schedule.alphas_cumprod.float(), theirs.alphas_cumprod, rtol=2e-4, atol=1e-7)
    assert schedule.sigma_max == pytest.approx(4096, rel=1e-6)
    assert schedule.sigma_min == pytest.approx(SCHEDULE.sigma_min, rel=1e-9)
    theirs.set_timesteps(10)
    assert_close(schedule.sigma(theirs.timesteps.double()).float(), theirs.sigmas[:-1], rtol=2e-4, atol=0)
