"""The forward process: how much noise a latent holds at each time.

Everything is said in the variance-exploding frame of Karras et al. 2022 (EDM): z = z0 + sigma * noise. The
variance-preserving latent of Ho et al. 2020 (DDPM) at time t is z / sqrt(sigma^2 + 1), with
sigma(t) = sqrt((1 - alpha_bar(t)) / alpha_bar(t)). Betas and sigmas are kept in float64 on the CPU.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

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


@dataclass(frozen=True)
class Schedule:
    """`steps` training times t = 0 ... steps - 1 and the noise level of each; the defaults are Stable Diffusion's.

    Times may be fractional: between two training times, log sigma is interpolated linearly, as k-diffusion does.
    Raises ValueError for a `kind` that is not in `BETAS`, fewer than two steps, or betas outside (0, 1).
    """

    kind: str = "scaled_linear"
    start: float = 0.00085
    end: float = 0.012
    steps: int = 1000

    def __post_init__(self):
        if self.kind not in BETAS:
            raise ValueError(f"unknown noise schedule {self.kind!r}; there are {', '.join(BETAS)}")
        if self.steps < 2:
            raise ValueError(f"a schedule of {self.steps} steps; expected at least 2")
        if not ((self.betas > 0) & (self.betas < 1)).all():
            raise ValueError(f"betas from {self.start} to {self.end}: expected both strictly between 0 and 1")

    @cached_property
    def betas(self) -> Tensor:
        """beta_t of DDPM eq. 2, (steps,) float64"""
        return BETAS[self.kind](self.start, self.end, self.steps)

    @cached_property
    def _log_alphas_cumprod(self) -> Tensor:
        return torch.log1p(-self.betas).cumsum(0)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """alpha_bar_t = prod(1 - beta), (steps,) float64, falling"""
        return self._log_alphas_cumprod.exp()

    @cached_property
    def sigmas(self) -> Tensor:
        """The training noise levels sqrt(1 / alpha_bar - 1), (steps,) float64, rising"""
        return torch.expm1(-self._log_alphas_cumprod).sqrt()

    def sigma(self, t: float | Tensor) -> Tensor:
        """The noise level at time t in [0, steps - 1], fractional or not.

        A float gives a float64 scalar on the CPU, a tensor its own shape and device, float64 if it was float64, else
        float32. Raises ValueError for a time outside the range.
        """
        times = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        if not ((times >= 0) & (times <= self.steps - 1)).all():
            raise ValueError(f"time {t}: expected within 0 and {self.steps - 1}")
        low = times.floor().long().clamp(max=self.steps - 2)
        return _like(torch.lerp(self._log_sigmas[low], self._log_sigmas[low + 1], times - low).exp(), t)

    def t(self, sigma: float | Tensor) -> Tensor:
        """The inverse of `sigma`: the fractional time whose noise level this is, with the same rule for types.

        Levels beyond the training range give its ends: sigma 0 is time 0.
        """
        levels = torch.as_tensor(sigma, dtype=torch.float64, device="cpu")
        logs = levels.clamp(self.sigmas[0], self.sigmas[-1]).log()
        low = (torch.searchsorted(self._log_sigmas, logs.contiguous(), right=True) - 1).clamp(0, self.steps - 2)
        below, above = self._log_sigmas[low], self._log_sigmas[low + 1]
        return _like(low + ((logs - below) / (above - below)).clamp(0, 1), sigma)

    @cached_property
    def _log_sigmas(self) -> Tensor:
        return self.sigmas.log()

    def sigmas_for(self, n: int, spacing: str = "linspace") -> Tensor:
        """The n + 1 noise levels of a sampler of n steps: falling, then 0. (n + 1,) float64 on the CPU, for any n >= 1.

        `spacing` is a word of `SPACINGS`. Raises ValueError for n < 1 or an unknown word.
        """
        if n < 1:
            raise ValueError(f"{n} steps: expected at least 1")
        if spacing not in SPACINGS:
            raise ValueError(f"unknown spacing {spacing!r}; there are {', '.join(SPACINGS)}")
        return torch.cat([SPACINGS[spacing](self, n), torch.zeros(1, dtype=torch.float64)])


def _like(answer: Tensor, asked: float | Tensor) -> Tensor:
    """`answer` where `asked` lives; never in half precision, which cannot tell t = 998 from 999."""
    if not isinstance(asked, Tensor):
        return answer
    return answer.to(asked.device, torch.float64 if asked.dtype == torch.float64 else torch.float32)


def linspace(schedule: Schedule, n: int) -> Tensor:
    """Evenly spaced, fractional times from the last to the first: k-diffusion's `get_sigmas`, the authors' choice."""
    return schedule.sigma(torch.linspace(schedule.steps - 1, 0, n, dtype=torch.float64))


def leading(schedule: Schedule, n: int) -> Tensor:
    """CompVis' DDIM times 1 + k * (steps // n), n of them; steps they do not reach at the noisy end are left out.

    The offset is dropped where it would leave the range. More levels than training times fall back on `linspace`.
    """
    if n > schedule.steps:
        return linspace(schedule, n)
    times = torch.arange(n - 1, -1, -1, dtype=torch.float64) * (schedule.steps // n)
    return schedule.sigma(times + min(1, schedule.steps - 1 - int(times[0])))


def karras(schedule: Schedule, n: int, rho: float = 7.0) -> Tensor:
    """EDM eq. 5: sigma^(1/rho) evenly spaced over the training range, so that small levels get most of the steps."""
    low, high = schedule.sigmas[0] ** (1 / rho), schedule.sigmas[-1] ** (1 / rho)
    return (high + torch.linspace(0, 1, n, dtype=torch.float64) * (low - high)) ** rho


SPACINGS: dict[str, Callable[[Schedule, int], Tensor]] = {"linspace": linspace, "leading": leading, "karras": karras}
"""(schedule, n) -> n falling noise levels, without the final 0"""
