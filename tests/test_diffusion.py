"""Laws of the diffusion room: schedule, denoiser, guidance, samplers and noise."""

import itertools
import math

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from minip2p.config import ScheduleConfig
from minip2p.diffusion import (
    BETAS,
    PREDICTIONS,
    SAMPLERS,
    SCHEDULES,
    SPACINGS,
    BetaSchedule,
    Cond,
    Denoiser,
    Noise,
    ddim,
    ddpm,
    dpmpp_2m,
    euler,
    euler_ancestral,
    get_sampler,
    guided,
    heun,
    make_schedule,
    three_way,
    two_way,
)
from minip2p.diffusion.samplers import ancestral

EXACT = {"rtol": 1e-12, "atol": 1e-12}
SCHEDULE = BetaSchedule()
kinds = st.sampled_from(sorted(BETAS))
scales = st.floats(-3, 15).map(lambda scale: round(scale, 3))
law = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def final(steps):
    *_, last = steps
    return last.z


def repeated(*draws):
    """A noise callable that gives `draws` in turn; StopIteration if asked for more."""
    remaining = iter(draws)
    return lambda: next(remaining)


# --------------------------------------------------------------------------------------------------------- schedule


def test_stable_diffusions_numbers():
    assert_close(SCHEDULE.alphas_cumprod[[0, 999]].tolist(), [0.99915, 0.0046601], rtol=0, atol=5e-8)
    assert_close(SCHEDULE.sigmas[[0, 999]].tolist(), [0.0291672, 14.614641], rtol=0, atol=5e-7)
    assert_close(SCHEDULE.betas[[0, 999]].tolist(), [0.00085, 0.012], **EXACT)


@law
@given(kinds, st.integers(2, 3000))
def test_alpha_bar_is_the_product_and_sigma_its_odds(kind, steps):
    schedule = BetaSchedule(kind, steps=steps)
    assert schedule.betas.max() <= (1 if kind == "zero_snr" else 0.999) and schedule.sigmas.isfinite().all()
    assert_close(schedule.alphas_cumprod, torch.cumprod(1 - schedule.betas, 0), rtol=1e-9, atol=0)
    assert_close(schedule.alphas_cumprod * (schedule.sigmas**2 + 1), torch.ones(steps).double(), rtol=1e-9, atol=0)
    assert (schedule.sigmas.diff() > 0).all()


@law
@given(kinds, st.floats(0, 1))
def test_time_and_level_are_inverse(kind, fraction):
    schedule = BetaSchedule(kind)
    t = fraction * 999
    assert_close(schedule.t(schedule.sigma(t)).item(), t, rtol=0, atol=1e-6)
    low, weight = min(int(t), 998), t - min(int(t), 998)
    logs = schedule.sigmas.log()
    assert_close(schedule.sigma(t).log(), (1 - weight) * logs[low] + weight * logs[low + 1], rtol=1e-9, atol=1e-9)


def test_time_and_level_of_tensors():
    t = torch.tensor([0.0, 500.25, 999.0])
    assert SCHEDULE.sigma(t).dtype == torch.float64 and SCHEDULE.sigma(t).shape == (3,)
    assert_close(SCHEDULE.t(SCHEDULE.sigma(t.double())), t.double(), rtol=0, atol=1e-9)
    assert SCHEDULE.t(torch.tensor(2.0, dtype=torch.float16)).dtype == torch.float64
    assert [SCHEDULE.t(sigma).item() for sigma in (0.0, 1e-9, 1e9, math.inf)] == [0, 0, 999, 999]
    for wrong in (-0.1, 999.5, math.nan, torch.tensor([1.0, 1000.0])):
        with pytest.raises(ValueError, match="within 0 and 999"):
            SCHEDULE.sigma(wrong)


@law
@given(kinds, st.integers(1, 2500), st.sampled_from(sorted(SPACINGS)), st.sampled_from([2, 10, 1000]))
def test_levels_fall_to_zero_for_any_number_of_steps(kind, n, spacing, steps):
    schedule = BetaSchedule(kind, steps=steps)
    sigmas = schedule.sigmas_for(n, spacing)
    assert sigmas.shape == (n + 1,) and sigmas.dtype == torch.float64 and sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()
    assert sigmas[0] <= schedule.sigmas[-1] * (1 + 1e-9)
    if spacing != "leading":
        assert_close(sigmas[0], schedule.sigmas[-1], rtol=1e-9, atol=0)
        assert n == 1 or math.isclose(sigmas[-2], schedule.sigmas[0], rel_tol=1e-9)


def test_spacings():
    assert_close(SCHEDULE.sigmas_for(1000)[:-1], SCHEDULE.sigmas.flip(0), **EXACT)
    assert SCHEDULE.t(SCHEDULE.sigmas_for(4)[:-1]).tolist() == pytest.approx([999, 666, 333, 0], abs=1e-9)
    assert SCHEDULE.t(SCHEDULE.sigmas_for(4, "leading")[:-1]).tolist() == pytest.approx([751, 501, 251, 1], abs=1e-9)
    roots = SCHEDULE.sigmas_for(9, "karras")[:-1] ** (1 / 7)
    assert_close(roots.diff(), roots.diff()[:1].expand(8), rtol=1e-9, atol=0)


def test_an_unknown_word_is_refused_and_the_known_ones_are_listed():
    for wrong, options in (
        (lambda: BetaSchedule("square"), BETAS),
        (lambda: make_schedule(ScheduleConfig(kind="square")), BETAS | SCHEDULES),
        (lambda: SCHEDULE.sigmas_for(5, "even"), SPACINGS),
        (lambda: Denoiser(None, SCHEDULE, "noise"), PREDICTIONS),
        (lambda: get_sampler("plms"), SAMPLERS),
    ):
        with pytest.raises(ValueError) as error:
            wrong()
        assert all(word in str(error.value) for word in options)
    assert get_sampler("heun") is heun


@pytest.mark.parametrize("wrong", [{"start": 0.0}, {"end": 1.0}, {"start": math.nan}])
def test_impossible_schedules_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        BetaSchedule("linear", **wrong)


@pytest.mark.parametrize(
    "words, said",
    [
        (
            {"steps": 100_000},
            "steps = 100000 with betas from start = 0.00085 and end = 0.012: noise levels from 0.0292",
        ),
        ({"steps": 20_000, "kind": "linear"}, "steps = 20000"),
        ({"start": 0.9, "end": 0.99}, "start = 0.9 and end = 0.99"),
        ({"start": 1e-300, "end": 1e-300}, "start = 1e-300"),
        ({"kind": "zero_snr", "prediction": "v", "steps": 50_000}, "steps = 50000"),
        ({"kind": "flow", "shift": 1e9}, "shift = 1e\\+09"),
        ({"kind": "flow", "shift": 1e-9}, "shift = 1e-09"),
    ],
)
def test_noise_levels_that_float32_cannot_hold_are_refused_with_their_words(words, said):
    with pytest.raises(ValueError, match=said):
        make_schedule(ScheduleConfig(**words))


@pytest.mark.parametrize("kind", [*BETAS, "flow"])
@pytest.mark.parametrize("steps", [10, 1000, 4000])
def test_what_is_not_refused_is_sampled_to_finite_numbers(kind, steps):
    """From the noisiest levels, by every sampler and spacing."""
    schedule = make_schedule(ScheduleConfig(kind=kind, steps=steps, prediction="v"))
    for sampler, spacing in itertools.product(SAMPLERS, SPACINGS):
        noise = Noise([0], (1, 2, 2))
        sigmas = schedule.sigmas_for(5, spacing)
        *_, last = get_sampler(sampler)(lambda z, sigma: z.tanh(), noise.start(sigmas[0]), sigmas, noise=noise)
        assert last.z.isfinite().all()


@pytest.mark.parametrize("n", [0, -3])
def test_fewer_than_one_step_is_refused(n):
    with pytest.raises(ValueError, match="at least 1"):
        SCHEDULE.sigmas_for(n)


# ---------------------------------------------------------------------------------------------------------- denoiser


def true_eps(x, t, text, control=()):
    """A smooth 'network' of a latent (and image) of unit variance, that depends on everything it is given."""
    shift = text.mean(dim=(1, 2)).reshape(-1, 1, 1, 1)
    mixed = x[:, :2] if x.shape[1] == 2 else x[:, :2] + 0.3 * x[:, 2:]
    return torch.tanh(mixed + shift) + 0.1 * torch.sin(t / 300).reshape(-1, 1, 1, 1) * mixed.flip(1)


def as_v(x, t, text, control=()):
    """The same knowledge as v; x = c_in z, so z0 = (x - s eps) / a with a = c_in and s = sigma c_in."""
    sigma = SCHEDULE.sigma(t).reshape(-1, 1, 1, 1)
    a, s = 1 / (sigma**2 + 1) ** 0.5, sigma / (sigma**2 + 1) ** 0.5
    eps = true_eps(x, t, text)
    return a * eps - s * (x[:, :2] - s * eps) / a


def as_x0(x, t, text, control=()):
    sigma = SCHEDULE.sigma(t).reshape(-1, 1, 1, 1)
    return x[:, :2] * (sigma**2 + 1) ** 0.5 - sigma * true_eps(x, t, text)


def as_flow(x, t, text, control=()):
    """Here x = z / (1 + sigma), t is 1000 times the flow's time, and noise - z0 = (1 + sigma) eps - z."""
    s = (t / (1000 - t)).reshape(-1, 1, 1, 1)
    z = x[:, :2] * (1 + s)
    preserving = torch.cat([z / (s**2 + 1) ** 0.5, x[:, 2:]], dim=1)
    return (1 + s) * true_eps(preserving, SCHEDULE.t(s.flatten()), text) - z


ONE_TRUTH = {"eps": true_eps, "v": as_v, "x0": as_x0, "flow": as_flow}
DENOISER = Denoiser(true_eps, SCHEDULE, "eps")


@law
@given(st.floats(0.03, 14.6), st.integers(0, 100))
def test_eps_v_x0_and_flow_agree(sigma, seed):
    z0, noise, cond = randn(3, 2, 2, 2, seed=seed), randn(3, 2, 2, 2, seed=seed + 1), Cond(randn(3, 5, 4, seed=seed))
    z = z0 + sigma * noise
    denoisers = {word: Denoiser(network, SCHEDULE, word) for word, network in ONE_TRUTH.items()}
    denoised = {word: denoiser(z, sigma, cond) for word, denoiser in denoisers.items()}
    eps = true_eps(z / (sigma**2 + 1) ** 0.5, SCHEDULE.t(sigma).expand(3), cond.text)
    assert_close(denoised["eps"], z - sigma * eps)
    for word in ("v", "x0", "flow"):
        assert_close(denoised[word], denoised["eps"], rtol=1e-6, atol=1e-6)
    error = (denoised["eps"] - z0).square().mean(dim=(1, 2, 3))
    c_out_squared = {"eps": sigma**2, "v": sigma**2 / (sigma**2 + 1), "x0": 1, "flow": sigma**2 / (1 + sigma) ** 2}
    for word, denoiser in denoisers.items():
        assert_close(denoiser.loss(z0, noise, sigma, cond) * c_out_squared[word], error, rtol=1e-5, atol=1e-6)


@law
@given(st.sampled_from(sorted(PREDICTIONS)), st.floats(0.03, 14.6))
def test_a_network_that_hits_the_target_has_no_loss_and_finds_the_clean_latent(word, sigma):
    z0, noise, cond = randn(2, 2, 3, 3), randn(2, 2, 3, 3, seed=1), Cond(randn(1, 1, 1))
    target = Denoiser(None, SCHEDULE, word).target(z0, noise, sigma)
    denoiser = Denoiser(lambda x, t, text, control: target, SCHEDULE, word)
    assert_close(denoiser(z0 + sigma * noise, sigma, cond), z0, rtol=1e-9, atol=1e-9)
    assert_close(denoiser.loss(z0, noise, sigma, cond), torch.zeros(2).double(), **EXACT)


def test_what_the_network_is_given():
    seen = {}

    def unet(x, t, text, control):
        seen.update(x=x, t=t, text=text, control=control)
        return x[:, :4]

    z, image, text = randn(2, 4, 3, 3).float(), randn(2, 4, 3, 3, seed=1).float(), randn(1, 5, 6).bfloat16()
    denoised = Denoiser(unet, SCHEDULE)(z, 2.0, Cond(text, image), control=["a", "b"])
    assert denoised.dtype == torch.float32
    assert seen["x"].dtype == torch.bfloat16 and seen["text"].shape == (2, 5, 6)
    assert_close(seen["x"][:, :4], (z / 5**0.5).bfloat16())
    assert torch.equal(seen["x"][:, 4:], image.bfloat16())
    assert seen["t"].dtype == torch.float32 and seen["t"].tolist() == [SCHEDULE.t(2.0).float().item()] * 2
    assert seen["control"] == ("a", "b")


@pytest.mark.parametrize("sequential", [False, True])
def test_a_control_is_asked_before_each_call_with_its_branches(sequential):
    """Also where a branch of weight 0 is left out, and where the branches are a function of sigma."""
    asked, given = [], []

    class Odd:
        def for_call(self, sigma, branches, b):
            asked.append((sigma, branches, b))
            return "odd" if sigma > 1 else None

    def unet(x, t, text, control):
        given.append(control)
        return x

    z, text = randn(3, 2, 2, 2), randn(1, 4, 5)
    branches = [(2.0, Cond(text)), (0.0, Cond(text)), (-1.0, Cond(text))]
    for rule in (branches, lambda sigma: branches):
        along = guided(Denoiser(unet, SCHEDULE), rule, sequential=sequential, control=[Odd()])
        along(z, 2.0)
        along(z, 0.5)
    calls = [(0,), (2,)] if sequential else [(0, 2)]
    assert asked == [(sigma, numbers, 3) for sigma in (2.0, 0.5) for numbers in calls] * 2
    assert given == ([("odd",)] * len(calls) + [()] * len(calls)) * 2


def test_one_level_an_item_is_each_item_alone():
    z, cond, sigma = randn(3, 2, 4, 4), Cond(randn(3, 5, 4), randn(3, 2, 4, 4)), torch.tensor([0.1, 2.0, 9.0])
    for denoiser in (Denoiser(unet, SCHEDULE, word) for word, unet in ONE_TRUTH.items()):
        together, losses = denoiser(z, sigma, cond), denoiser.loss(z, z.flip(0), sigma, cond)
        assert losses.shape == (3,)
        for i, level in enumerate(sigma.tolist()):
            alone = Cond(cond.text[i : i + 1], cond.image[i : i + 1])
            assert torch.equal(denoiser(z[i : i + 1], level, alone), together[i : i + 1])
            assert torch.equal(denoiser(z[i : i + 1], torch.tensor(level), alone), together[i : i + 1])
            assert_close(denoiser.loss(z[i : i + 1], z.flip(0)[i : i + 1], level, alone), losses[i : i + 1], **EXACT)


@pytest.mark.parametrize("sigma", [-1.0, math.nan, math.inf, torch.ones(2), torch.ones(3, 1)])
def test_impossible_levels_are_refused(sigma):
    with pytest.raises(ValueError, match="expected"):
        DENOISER(randn(3, 2, 1, 1), sigma, Cond(randn(1, 1, 1)))


def test_a_condition_of_other_length_is_refused():
    for cond in (Cond(randn(2, 1, 1)), Cond(randn(1, 1, 1), randn(2, 2, 1, 1))):
        with pytest.raises(ValueError, match="expected 3 or 1"):
            DENOISER(randn(3, 2, 1, 1), 1.0, cond)


# ---------------------------------------------------------------------------------------------------------- guidance


class Counting:
    """`true_eps` that counts the rows of each call."""

    def __init__(self):
        self.rows = []

    def __call__(self, x, t, text, control=()):
        self.rows.append(len(x))
        return true_eps(x, t, text)


def conditions(b, seed=0):
    return {"text": randn(b, 5, 4, seed=seed), "null_text": randn(1, 5, 4, seed=seed + 1), "image": randn(b, 2, 3, 3)}


@law
@given(scales, scales, st.floats(0.03, 14.6), st.integers(1, 3))
def test_three_way_is_equation_3(s_t, s_i, sigma, b):
    parts, z = conditions(b), randn(b, 2, 3, 3, seed=7)
    text, null_text, image = parts["text"], parts["null_text"].expand(b, 5, 4), parts["image"]
    assume(any(weight for weight, _ in three_way(s_t, s_i, **parts)))

    def eps(image, text):
        denoised = DENOISER(z, sigma, Cond(text, image))
        return (z - denoised) / sigma

    none, image_only, both = eps(0 * image, null_text), eps(image, null_text), eps(image, text)
    published = none + s_i * (image_only - none) + s_t * (both - image_only)
    branches = three_way(s_t, s_i, **parts)
    assert_close(float(sum(weight for weight, _ in branches)), 1.0, rtol=0, atol=1e-12)
    for sequential in (False, True):
        denoised = guided(DENOISER, branches, sequential=sequential)(z, sigma)
        assert_close(denoised, z - sigma * published, rtol=1e-9, atol=1e-9)


@law
@given(scales, st.floats(0.03, 14.6))
def test_two_way_is_classifier_free_guidance(scale, sigma):
    z, text, null = randn(2, 2, 3, 3), randn(2, 5, 4), randn(1, 5, 4, seed=1)
    conditional, unconditional = DENOISER(z, sigma, Cond(text)), DENOISER(z, sigma, Cond(null))
    branches = two_way(scale, text, null)
    assert sum(weight for weight, _ in branches) == pytest.approx(1)
    published = unconditional + scale * (conditional - unconditional)
    assert_close(guided(DENOISER, branches)(z, sigma), published, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "s_t, s_i, run", [(7.5, 1.5, 3), (1.0, 1.0, 1), (1.5, 1.5, 2), (7.5, 1.0, 2), (0.0, 0.0, 1), (0.0, 1.0, 1)]
)
def test_a_branch_of_weight_0_is_never_run(s_t, s_i, run):
    unet, z = Counting(), randn(2, 2, 3, 3)
    branches = three_way(s_t, s_i, **conditions(2))
    guided(Denoiser(unet, SCHEDULE), branches)(z, 2.0)
    assert unet.rows == [2 * run]
    guided(Denoiser(unet, SCHEDULE), branches, sequential=True)(z, 2.0)
    assert unet.rows[1:] == [2] * run


def test_guidance_at_1_1_is_the_conditional_branch():
    z, parts = randn(2, 2, 3, 3), conditions(2)
    field = guided(DENOISER, three_way(1, 1, **parts))
    assert torch.equal(field(z, 2.0), DENOISER(z, 2.0, Cond(parts["text"], parts["image"])))


def test_rows_are_branches_then_items_in_the_papers_order():
    seen = []

    def unet(x, t, text, control=()):
        seen.append((x, text))
        return true_eps(x, t, text)

    parts, z = conditions(2), randn(2, 2, 3, 3)
    guided(Denoiser(unet, SCHEDULE), three_way(7.5, 1.5, **parts))(z, 2.0)
    ((x, text),) = seen
    null = parts["null_text"].expand(2, 5, 4)
    assert torch.equal(text, torch.cat([parts["text"], null, null]))
    assert torch.equal(x[:, 2:], torch.cat([parts["image"], parts["image"], 0 * parts["image"]]))


def test_one_scale_an_item_is_each_item_alone():
    parts, z, s_t, s_i = conditions(3), randn(3, 2, 3, 3), torch.tensor([1.0, 7.5, 3.0]), torch.tensor([1.0, 1.0, 1.5])
    for sigma in (2.0, torch.tensor([0.5, 2.0, 9.0])):
        together = guided(DENOISER, three_way(s_t, s_i, **parts))(z, sigma)
        for i in range(3):
            one = {name: part if len(part) == 1 else part[i : i + 1] for name, part in parts.items()}
            level = sigma if isinstance(sigma, float) else sigma[i]
            alone = guided(DENOISER, three_way(s_t[i].item(), s_i[i].item(), **one))(z[i : i + 1], level)
            assert_close(together[i : i + 1], alone, **EXACT)


def test_invalid_guidance_is_refused():
    parts = conditions(1)
    for scale in (math.nan, math.inf, torch.tensor([1.0, math.nan])):
        with pytest.raises(ValueError, match="finite"):
            three_way(scale, 1.5, **parts)
    with pytest.raises(ValueError, match="nothing to run"):
        guided(DENOISER, [(0.0, Cond(parts["text"]))])
    with pytest.raises(ValueError, match="zeros for no image"):
        guided(DENOISER, [(0.5, Cond(parts["text"])), (0.5, Cond(parts["text"], parts["image"]))])


# ---------------------------------------------------------------------------------------------------------- samplers

MEAN, SPREAD = 0.7, 0.4


def gaussian(z, sigma):
    """The exact denoiser of data N(MEAN, SPREAD^2)."""
    return MEAN + SPREAD**2 / (SPREAD**2 + sigma**2) * (z - MEAN)


def trajectory(z, sigma, after):
    """Where the probability flow of that data takes z, in closed form."""
    return MEAN + (z - MEAN) * ((SPREAD**2 + after**2) / (SPREAD**2 + sigma**2)) ** 0.5


def geometric(n, high=10.0, low=0.1):
    return torch.logspace(math.log10(high), math.log10(low), n + 1, dtype=torch.float64)


@pytest.mark.parametrize("sampler, order", [(euler, 1), (ddim, 1), (heun, 2), (dpmpp_2m, 2)])
def test_order_of_convergence(sampler, order):
    z = MEAN + 10 * randn(4, 1, 2, 2)
    errors = []
    for n in (40, 80, 160, 320):
        end = final(sampler(gaussian, z, geometric(n), noise=None))
        errors.append((end - trajectory(z, 10.0, 0.1)).abs().max().item())
    orders = [math.log2(coarse / fine) for coarse, fine in zip(errors, errors[1:])]
    assert orders[-1] == pytest.approx(order, abs=0.1), (errors, orders)
    assert errors[-1] < 0.02


@pytest.mark.parametrize("sampler, bound", [(euler, 3e-2), (ddim, 3e-2), (heun, 3e-3), (dpmpp_2m, 1e-2)])
def test_samples_follow_the_closed_form_down_to_0(sampler, bound):
    z = MEAN + SCHEDULE.sigmas[-1] * randn(4, 1, 2, 2)
    sigmas = SCHEDULE.sigmas_for(200)
    steps = list(sampler(gaussian, z, sigmas, noise=None))
    for step in steps:
        exact = trajectory(z, sigmas[0], sigmas[step.i + 1])
        assert (step.z - exact).abs().max() < bound
    assert (final(steps) - MEAN).abs().max() > SPREAD


@law
@given(st.lists(st.floats(0.01, 50), min_size=2, max_size=8, unique=True), st.integers(0, 99))
def test_ddpms_drift_telescopes_for_gaussian_data(levels, seed):
    """Without its noise an ancestral step scales z - MEAN by (SPREAD^2 + sigma'^2) / (SPREAD^2 + sigma^2), exactly."""
    sigmas, z = sorted(levels, reverse=True), randn(2, 1, 2, 2, seed=seed)
    for sampler in (ddpm, euler_ancestral):
        end = final(sampler(gaussian, z, sigmas, noise=lambda: torch.zeros_like(z)))
        ratio = (SPREAD**2 + sigmas[-1] ** 2) / (SPREAD**2 + sigmas[0] ** 2)
        assert_close(end - MEAN, ratio * (z - MEAN), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", [ddpm, euler_ancestral])
def test_ancestral_samples_have_the_datas_mean_and_spread(sampler):
    generator = torch.Generator().manual_seed(0)

    def noise():
        return torch.randn(1, 1, 150, 150, generator=generator)

    end = final(sampler(gaussian, noise() * SCHEDULE.sigmas[-1].item(), SCHEDULE.sigmas_for(1000), noise=noise))
    assert end.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert end.std().item() == pytest.approx(SPREAD, rel=0.02)


def smooth(z, sigma):
    """A field without a closed form."""
    return DENOISER(z, sigma, Cond(torch.full((1, 1, 1), 0.2, dtype=torch.float64)))


def both(first, second, sigmas, draws, **eta):
    """The final latents of two samplers from one start with one noise; each may be (sampler, keywords)."""
    z = sigmas[0] * randn(2, 2, 3, 3, seed=5)
    ends = []
    for sampler, keywords in (first, second):
        ends.append(final(sampler(smooth, z, sigmas, noise=repeated(*draws), **keywords)))
    return ends


falling = st.lists(st.floats(0.05, 14.0), min_size=1, max_size=6, unique_by=lambda sigma: round(sigma, 3)).map(
    lambda levels: [*sorted(levels, reverse=True), 0.0]
)


@law
@given(falling)
def test_ddim_without_noise_is_euler(sigmas):
    first, second = both((ddim, {"eta": 0.0}), (euler, {}), sigmas, [])
    assert_close(first, second, rtol=1e-9, atol=1e-9)


@law
@given(falling)
def test_ddpm_is_euler_ancestral_is_ddim_with_eta_1(sigmas):
    """On any levels, not only at 1000 steps: the same posterior in three notations (see `samplers`)."""
    draws = [randn(2, 2, 3, 3, seed=i) for i in range(len(sigmas) - 2)]
    for other in ((euler_ancestral, {}), (ddim, {"eta": 1.0})):
        first, second = both((ddpm, {}), other, sigmas, draws)
        assert_close(first, second, rtol=1e-9, atol=1e-9)


def test_ddpms_published_step_is_euler_ancestral_at_1000_steps():
    """DDPM eq. 7 in its own frame (alphas and betas of the training schedule), its whole run of 1000 steps.

    They differ by rounding only: each is the posterior of the same forward process.
    """
    z = 14.6 * randn(1, 2, 3, 3)
    draws = [randn(1, 2, 3, 3, seed=i) for i in range(999)]
    end = final(euler_ancestral(smooth, z, SCHEDULE.sigmas_for(1000), noise=repeated(*draws)))
    alpha_bar, beta, noise = SCHEDULE.alphas_cumprod, SCHEDULE.betas, repeated(*draws)
    x = z * alpha_bar[-1].sqrt()
    for t in reversed(range(1000)):
        before = alpha_bar[t - 1] if t > 0 else torch.tensor(1.0).double()
        x0 = smooth(x / alpha_bar[t].sqrt(), SCHEDULE.sigmas[t].item())
        mean = before.sqrt() * beta[t] / (1 - alpha_bar[t]) * x0
        mean = mean + (1 - beta[t]).sqrt() * (1 - before) / (1 - alpha_bar[t]) * x
        variance = (1 - before) / (1 - alpha_bar[t]) * beta[t]
        x = mean + variance.sqrt() * noise() if t > 0 else mean
    assert_close(end, x, rtol=1e-9, atol=1e-9)


@law
@given(st.floats(0.01, 20), st.floats(0, 0.999), st.floats(0, 30))
def test_an_ancestral_step_keeps_the_level(sigma, fraction, eta):
    after = sigma * fraction
    down, up = ancestral(sigma, after, eta)
    assert 0 <= up <= after and math.hypot(down, up) == pytest.approx(after, rel=1e-9, abs=1e-12)


@law
@given(st.sampled_from(sorted(SAMPLERS)), falling)
def test_a_step_records_what_it_did_and_draws_only_above_0(name, sigmas):
    drawn, seen = [], []

    def noise():
        drawn.append(1)
        return torch.zeros(1, 2, 3, 3).double()

    def field(z, sigma):
        seen.append((z, sigma))
        return smooth(z, sigma)

    z = sigmas[0] * randn(1, 2, 3, 3)
    before_the_run = z.clone()
    steps = list(get_sampler(name)(field, z, sigmas, noise=noise))
    assert [(step.i, step.sigma) for step in steps] == list(enumerate(sigmas[:-1]))
    assert torch.equal(z, before_the_run)
    before = [z, *(step.z for step in steps[:-1])]
    for step, latent in zip(steps, before):
        assert torch.equal(step.denoised, smooth(latent, step.sigma))
    assert_close(steps[-1].z, steps[-1].denoised, rtol=1e-9, atol=1e-9)
    assert len(drawn) == (len(steps) - 1 if name in ("ddpm", "euler_ancestral") else 0)
    assert len(seen) == (2 * len(steps) - 1 if name == "heun" else len(steps))


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_an_items_sample_does_not_depend_on_its_batch(name):
    sampler, sigmas = get_sampler(name), SCHEDULE.sigmas_for(6)

    def run(seeds):
        parts = {
            "text": torch.stack([randn(5, 4, seed=seed) for seed in seeds]).float(),
            "null_text": randn(1, 5, 4).float(),
            "image": torch.stack([randn(2, 3, 3, seed=seed) for seed in seeds]).float(),
        }
        noise = Noise(seeds, (2, 3, 3))
        field = guided(DENOISER, three_way(7.5, 1.5, **parts))
        return final(sampler(field, noise.start(sigmas[0]), sigmas, noise=noise))

    together = run([3, 1, 8])
    for i, seed in enumerate([3, 1, 8]):
        assert_close(run([seed])[0], together[i], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_latents_dtype_is_kept(name, dtype):
    sigmas, noise = SCHEDULE.sigmas_for(3), Noise([0], (2, 3, 3), dtype=dtype)
    for step in get_sampler(name)(gaussian, noise.start(sigmas[0]), sigmas, noise=noise):
        assert step.z.dtype == step.denoised.dtype == dtype


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_everything_follows_the_latents_device(name):
    z, scale = torch.empty(2, 2, 3, 3, device="meta"), torch.tensor([7.5, 1.0])
    parts = {part: value.float().to("meta") for part, value in conditions(2).items()}
    denoiser = Denoiser(lambda x, t, text, control: x[:, :2] + t.reshape(-1, 1, 1, 1), SCHEDULE, "v")
    field, noise = guided(denoiser, three_way(scale, 1.5, **parts)), Noise([0, 1], (2, 3, 3), device="meta")
    end = final(get_sampler(name)(field, z, [3.0, 1.0, 0.0], noise=noise))
    loss = denoiser.loss(end, noise(), torch.tensor([1.0, 2.0]), Cond(parts["text"]))
    assert end.device.type == loss.device.type == "meta"


@pytest.mark.parametrize("sampler", [euler, heun, dpmpp_2m, ddim])
def test_samplers_without_noise_run_backwards(sampler):
    z = MEAN + 10 * randn(1, 1, 2, 2)
    down = final(sampler(gaussian, z, geometric(300), noise=None))
    assert_close(final(sampler(gaussian, down, geometric(300).flip(0), noise=None)), z, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("sigmas", [[1.0], [], [1, 0, 0], [1.0, -0.5], [math.inf, 1], [math.nan, 0], [1.0, 1.0]])
@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_levels_that_no_sampler_can_follow_are_refused(name, sigmas):
    with pytest.raises(ValueError, match="noise levels"):
        list(get_sampler(name)(gaussian, randn(1, 1, 1, 1), sigmas, noise=lambda: randn(1, 1, 1, 1)))


def test_ancestral_samplers_refuse_rising_levels_and_a_wrong_eta():
    for sampler in (ddpm, euler_ancestral):
        with pytest.raises(ValueError, match="must fall"):
            list(sampler(gaussian, randn(1, 1, 1, 1), [1.0, 2.0], noise=None))
    for eta in (-0.5, math.nan, math.inf):
        with pytest.raises(ValueError, match="eta"):
            list(ddim(gaussian, randn(1, 1, 1, 1), [2.0, 1.0], noise=None, eta=eta))


# ------------------------------------------------------------------------------------------------------------- noise


@law
@given(st.integers(-(2**63), 2**64 - 1), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))
def test_one_items_draws_are_the_global_generators(seed, c, y, x):
    noise = Noise([seed], (c, y, x))
    draws = [noise.start(14.614641), noise(), noise()]
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    expected = [torch.randn(1, c, y, x) * 14.614641, torch.randn(1, c, y, x), torch.randn(1, c, y, x)]
    torch.random.set_rng_state(state)
    assert all(torch.equal(draw, other) for draw, other in zip(draws, expected))


def test_an_items_noise_depends_on_its_seed_alone():
    together = Noise(range(5, 8), (4, 3, 3))
    alone = [Noise([seed], (4, 3, 3), dtype=torch.float64) for seed in range(5, 8)]
    state = torch.random.get_rng_state()
    for _ in range(3):
        assert torch.equal(together().double(), torch.cat([noise() for noise in alone]))
    twins = Noise([5, 5], (4, 3, 3))
    assert torch.equal(*twins().chunk(2)) and torch.equal(*twins().chunk(2))
    assert torch.equal(Noise(torch.tensor([5]), (4, 3, 3))(), Noise([5], (4, 3, 3))())
    assert torch.equal(torch.random.get_rng_state(), state)
