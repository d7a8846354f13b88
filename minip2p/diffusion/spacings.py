"""Other noise levels for a sampler's steps than the authors' (`schedule.linspace`)."""

from typing import Any

import torch
from torch import Tensor


def leading(schedule: Any, n: int) -> Tensor:
    """CompVis' DDIM times 1 + k * (steps // n), n of them; steps they do not reach at the noisy end are left out.

    The offset is dropped where it would leave the range. More levels than training times are spaced as by "linspace".
    """
    if n > schedule.last - schedule.first + 1:
        return schedule.sigmas_for(n, "linspace")[:-1]
    times = torch.arange(n - 1, -1, -1, dtype=torch.float64) * (schedule.steps // n)
    return schedule.sigma(times + min(1, schedule.last - int(times[0])))


def karras(schedule: Any, n: int, rho: float = 7.0) -> Tensor:
    """EDM eq. 5: sigma^(1/rho) evenly spaced over the training range, so that small levels get most of the steps."""
    low, high = schedule.sigma_min ** (1 / rho), schedule.sigma_max ** (1 / rho)
    return (high + torch.linspace(0, 1, n, dtype=torch.float64) * (low - high)) ** rho
