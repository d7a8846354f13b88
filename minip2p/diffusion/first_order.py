"""Samplers of first order (`samplers` has the common form).

DDPM and DDIM were published in the variance-preserving frame, and are written here after dividing by sqrt(alpha_bar),
with sigma^2 = 1 / alpha_bar - 1. In this frame DDIM without noise is Euler's method, and DDPM's ancestral step, DDIM
with eta = 1 and Euler-ancestral are one and the same step, between any two levels. A test states each.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor

from .steps import Draw, Field, Step, ancestral, pairs


def ddpm(field: Field, z: Tensor, sigmas: Tensor | Sequence[float], *, noise: Draw) -> Iterator[Step]:
    """Ho et al. 2020, algorithm 2, with the posterior's own variance (eq. 6 and 7), between any two levels.

    q(z' | z, z0) is normal with mean z0 + (sigma' / sigma)^2 (z - z0) and variance sigma'^2 (1 - (sigma' / sigma)^2).
    """
    for i, sigma, after in pairs(sigmas, falling=True):
        denoised = field(z, sigma)
        ratio = (after / sigma) ** 2
        z = denoised + ratio * (z - denoised)
        if after > 0:
            z = z + after * (1 - ratio) ** 0.5 * noise()
        yield Step(i, sigma, z, denoised)


def ddim(field: Field, z: Tensor, sigmas: Tensor | Sequence[float], *, noise: Draw, eta: float = 0.0) -> Iterator[Step]:
    """Song et al. 2021, eq. 12 and 16: `eta` 0 draws no noise, 1 is DDPM; larger ones are capped at all noise."""
    for i, sigma, after in pairs(sigmas, falling=eta > 0):
        denoised = field(z, sigma)
        eps = (z - denoised) / sigma
        down, up = ancestral(sigma, after, eta)
        z = denoised + down * eps
        if up > 0:
            z = z + up * noise()
        yield Step(i, sigma, z, denoised)


def euler(field: Field, z: Tensor, sigmas: Tensor | Sequence[float], *, noise: Draw | None = None) -> Iterator[Step]:
    """Euler's method on dz/dsigma = (z - D(z, sigma)) / sigma (Karras et al. 2022, algorithm 1 without correction)."""
    for i, sigma, after in pairs(sigmas):
        denoised = field(z, sigma)
        slope = (z - denoised) / sigma
        z = z + (after - sigma) * slope
        yield Step(i, sigma, z, denoised)
