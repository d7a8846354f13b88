"""Samplers of second order: fewer steps for the same error, without noise (`samplers` has their common form)."""

import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from .steps import Draw, Field, Step, pairs


def heun(field: Field, z: Tensor, sigmas: Tensor | Sequence[float], *, noise: Draw | None = None) -> Iterator[Step]:
    """Karras et al. 2022, algorithm 1: second order, two evaluations per step, one for the step to 0."""
    for i, sigma, after in pairs(sigmas):
        denoised = field(z, sigma)
        slope = (z - denoised) / sigma
        ahead = z + (after - sigma) * slope
        if after > 0:
            slope = (slope + (ahead - field(ahead, after)) / after) / 2
        z = z + (after - sigma) * slope
        yield Step(i, sigma, z, denoised)


def dpmpp_2m(field: Field, z: Tensor, sigmas: Tensor | Sequence[float], *, noise: Draw | None = None) -> Iterator[Step]:
    """DPM-Solver++(2M), Lu et al. 2022, algorithm 2: second order, one evaluation per step.

    lambda = -log sigma; D is extrapolated from the last two evaluations to the middle of the step in lambda. The first
    step has no evaluation before it, and lambda is infinite at sigma = 0: these two steps are of first order.
    """
    last, h_last = None, 0.0
    for i, sigma, after in pairs(sigmas):
        denoised = middle = field(z, sigma)
        h = math.log(sigma / after) if after > 0 else math.inf
        if last is not None and after > 0:
            middle = denoised + h / (2 * h_last) * (denoised - last)
        z = middle + after / sigma * (z - middle)
        last, h_last = denoised, h
        yield Step(i, sigma, z, denoised)
