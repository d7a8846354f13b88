"""The variances that DDPM's forward process adds at each training time (Ho et al. 2020, eq. 2)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def scaled_linear(start: float, end: float, steps: int) -> Tensor:
    """Stable Diffusion's betas: their square roots are evenly spaced."""
    return linear(start**0.5, end**0.5, steps) ** 2


def linear(start: float, end: float, steps: int) -> Tensor:
    """DDPM's betas, section 4."""
    return torch.linspace(start, end, steps, dtype=torch.float64)


def cosine(start: float, end: float, steps: int) -> Tensor:
    """Nichol & Dhariwal 2021, eq. 17: alpha_bar is a squared cosine, betas are clipped at .999. The ends are fixed."""
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    alpha_bar = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)


BETAS: dict[str, Callable[[float, float, int], Tensor]] = {
    "scaled_linear": scaled_linear,
    "linear": linear,
    "cosine": cosine,
}
"""(first beta, last beta, number of steps) -> betas (steps,) float64"""
