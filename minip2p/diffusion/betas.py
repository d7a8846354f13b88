"""The variances that DDPM's forward process adds at each training time (Ho et al. 2020, eq. 2)."""

import math
from collections.abc import Callable
from typing import Any

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


def zero_snr(start: float, end: float, steps: int) -> Tensor:
    """Stable Diffusion's betas, rescaled so that the last time is noise alone (Lin et al. 2023, algorithm 1).

    As in diffusers, alpha_bar ends at 2^-24 instead of 0: a sigma of 4096. It goes with the prediction v.
    """
    roots = (1 - scaled_linear(start, end, steps)).cumprod(0).sqrt()
    alpha_bar = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
    alpha_bar[-1] = (alpha_bar[-2] / 2).clamp(max=2**-24)
    return 1 - alpha_bar / torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])


LEAST, MOST = 2.0**-24, 2.0**24
"""noise levels that float32 can add to a latent of size 1: below them noise is lost in rounding, above the latent"""


def check_levels(schedule: Any, given: str) -> None:
    """Raise ValueError, which names what was given, for noise levels that cannot be sampled from."""
    low, high = schedule.sigma_min, schedule.sigma_max
    if not LEAST <= low < high <= MOST:
        raise ValueError(f"{given}: noise levels from {low:.3g} to {high:.3g}; expected {LEAST:.3g} to {MOST:.3g}")


def check_betas(schedule: Any) -> None:
    """Raise ValueError for betas outside of (0, 1), and for their noise levels."""
    ends = f"start = {schedule.start:.6g} and end = {schedule.end:.6g}"
    if not ((schedule.betas > 0) & (schedule.betas < 1)).all():
        raise ValueError(f"betas from {ends}: expected all strictly between 0 and 1")
    check_levels(schedule, f"steps = {schedule.steps} with betas from {ends}")


BETAS: dict[str, Callable[[float, float, int], Tensor]] = {
    "scaled_linear": scaled_linear,
    "linear": linear,
    "cosine": cosine,
    "zero_snr": zero_snr,
}
"""(first beta, last beta, number of steps) -> betas (steps,) float64"""
