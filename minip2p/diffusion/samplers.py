"""Samplers: generators that follow a denoising field down a list of noise levels.

All share one form: `sampler(field, z, sigmas, *, noise)` with field(z, sigma) -> denoised, z (b, c, y, x) at the first
level in the frame z = z0 + sigma noise, sigmas (n + 1,) usually falling to 0 (`Schedule.sigmas_for`), and noise() -> a
standard normal draw like z (`Noise`). They yield one `Step` a step, so that progress, previews, recording and early
stopping are the caller's loop; so is `torch.inference_mode()`. Noise is drawn only where the next level is above 0.

Known in the variance-preserving frame, DDPM and DDIM are written here after dividing by sqrt(alpha_bar), with
sigma^2 = 1 / alpha_bar - 1. In that frame eps = (z - denoised) / sigma is also the slope dz/dsigma of the probability
flow (Karras et al. 2022, eq. 3), DDIM without noise is Euler's method, and DDPM's ancestral step, DDIM with eta = 1 and
Euler-ancestral are one and the same step, between any two levels. A test states each.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Field = Callable[[Tensor, float], Tensor]
"""(z, sigma) -> denoised, both (b, c, y, x)"""
Draw = Callable[[], Tensor]
"""() -> standard normal noise like z"""


class Step(NamedTuple):
    """One step of a sampler, from sigmas[i] to sigmas[i + 1]."""

    i: int
    """0 ... n - 1"""
    sigma: float
    """the level before the step, sigmas[i]: that of `denoised`"""
    z: Tensor
    """the latent after the step, at sigmas[i + 1]; of the last step, the sample"""
    denoised: Tensor
    """the field at the latent before the step: a preview"""


def ddpm(field: Field, z: Tensor, sigmas: Tensor | Sequence[float], *, noise: Draw) -> Iterator[Step]:
    """Ho et al. 2020, algorithm 2, with the posterior's own variance (eq. 6 and 7), between any two levels.

    q(z' | z, z0) is normal with mean z0 + (sigma' / sigma)^2 (z - z0) and variance sigma'^2 (1 - (sigma' / sigma)^2).
    """
    for i, sigma, after in _pairs(sigmas, falling=True):
        denoised = field(z, sigma)
        ratio = (after / sigma) ** 2
        z = denoised + ratio * (z - denoised)
        if after > 0:
            z = z + after * (1 - ratio) ** 0.5 * noise()
        yield Step(i, sigma, z, denoised)


def ddim(
    field: Field, z: Tensor, sigmas: Tensor | Sequence[float], *, noise: Draw, eta: float = 0.0
) -> Iterator[Step]:
    """Song et al. 2021, eq. 12 and 16: `eta` 0 draws no noise, 1 is DDPM, more is cut where only noise is left."""
    for i, sigma, after in _pairs(sigmas, falling=eta > 0):
        denoised = field(z, sigma)
        eps = (z - denoised) / sigma
        down, up = ancestral(sigma, after, eta)
        z = denoised + down * eps
        if up > 0:
            z = z + up * noise()
        yield Step(i, sigma, z, denoised)


def euler(field: Field, z: Tensor, sigmas: Tensor | Sequence[float], *, noise: Draw | None = None) -> Iterator[Step]:
    """Euler's method on dz/dsigma = (z - D(z, sigma)) / sigma (Karras et al. 2022, algorithm 1 without correction)."""
    for i, sigma, after in _pairs(sigmas):
        denoised = field(z, sigma)
        slope = (z - denoised) / sigma
        z = z + (after - sigma) * slope
        yield Step(i, sigma, z, denoised)


def euler_ancestral(
    field: Field, z: Tensor, sigmas: Tensor | Sequence[float], *, noise: Draw, eta: float = 1.0
) -> Iterator[Step]:
    """k-diffusion's: an Euler step to below the next level, then noise up to it. The paper's sampler."""
    for i, sigma, after in _pairs(sigmas, falling=eta > 0):
        denoised = field(z, sigma)
        slope = (z - denoised) / sigma
        down, up = ancestral(sigma, after, eta)
        z = z + (down - sigma) * slope
        if after > 0:
            z = z + up * noise()
        yield Step(i, sigma, z, denoised)


def heun(field: Field, z: Tensor, sigmas: Tensor | Sequence[float], *, noise: Draw | None = None) -> Iterator[Step]:
    """Karras et al. 2022, algorithm 1: of second order, two evaluations a step, one for the step to 0."""
    for i, sigma, after in _pairs(sigmas):
        denoised = field(z, sigma)
        slope = (z - denoised) / sigma
        ahead = z + (after - sigma) * slope
        if after > 0:
            slope = (slope + (ahead - field(ahead, after)) / after) / 2
        z = z + (after - sigma) * slope
        yield Step(i, sigma, z, denoised)


def dpmpp_2m(field: Field, z: Tensor, sigmas: Tensor | Sequence[float], *, noise: Draw | None = None) -> Iterator[Step]:
    """DPM-Solver++(2M), Lu et al. 2022, algorithm 2: of second order, one evaluation a step.

    lambda = -log sigma; D is extrapolated from the last two evaluations to the middle of the step in lambda. The first
    step has no past and the step to sigma = 0 no length in lambda: both are of first order.
    """
    last, h_last = None, None
    for i, sigma, after in _pairs(sigmas):
        denoised = middle = field(z, sigma)
        h = math.log(sigma / after) if after > 0 else None
        if last is not None and h is not None:
            middle = denoised + h / (2 * h_last) * (denoised - last)
        z = middle + after / sigma * (z - middle)
        last, h_last = denoised, h
        yield Step(i, sigma, z, denoised)


SAMPLERS: dict[str, Callable[..., Iterator[Step]]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
}


def get_sampler(word: str) -> Callable[..., Iterator[Step]]:
    """The sampler of that name. Raises ValueError for a word that is not in `SAMPLERS`."""
    if word not in SAMPLERS:
        raise ValueError(f"unknown sampler {word!r}; there are {', '.join(SAMPLERS)}")
    return SAMPLERS[word]


def ancestral(sigma: float, after: float, eta: float = 1.0) -> tuple[float, float]:
    """How an ancestral step divides: (down, up) with down^2 + up^2 = after^2.

    `up` is eta times the deviation of q(z' | z, z0) (DDIM, eq. 16, in this frame), and at most `after`.
    Raises ValueError for an eta that is negative or not finite.
    """
    if not 0 <= eta < math.inf:
        raise ValueError(f"eta {eta}: expected a finite number >= 0")
    if eta == 0:
        return after, 0.0
    up = min(after, eta * after * (1 - (after / sigma) ** 2) ** 0.5)
    return (after**2 - up**2) ** 0.5, up


def _pairs(sigmas: Tensor | Sequence[float], falling: bool = False) -> Iterator[tuple[int, float, float]]:
    """(i, sigmas[i], sigmas[i + 1]) as floats. Raises ValueError for levels that no sampler can follow."""
    levels = torch.as_tensor(sigmas, dtype=torch.float64, device="cpu").tolist()
    if len(levels) < 2:
        raise ValueError(f"noise levels {levels}: expected at least two")
    if not all(0 < sigma < math.inf for sigma in levels[:-1]) or not 0 <= levels[-1] < math.inf:
        raise ValueError("noise levels must be finite and above 0; only the last may be 0")
    pairs = list(zip(levels, levels[1:]))
    if any(sigma == after or (falling and sigma < after) for sigma, after in pairs):
        raise ValueError("noise levels must fall at every step; only a sampler without noise may climb")
    return ((i, sigma, after) for i, (sigma, after) in enumerate(pairs))
