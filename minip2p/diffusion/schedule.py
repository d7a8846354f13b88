"""The forward process: how much noise a latent holds at each time.

All of it is in the variance-exploding frame of Karras et al. 2022 (EDM): z = z0 + sigma * noise. The latents x of other
frames are z times a scale, so a schedule is one function, the noise level sigma(t) of a training time t:

    variance preserving (DDPM)    x = z / sqrt(sigma^2 + 1)    sigma(t) = sqrt((1 - alpha_bar(t)) / alpha_bar(t))
    rectified flow                x = z / (1 + sigma)          sigma(t) = t / (1 - t), t in (0, 1)

Levels are computed in float64 on the CPU.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .betas import BETAS, check_betas
from .spacings import karras, leading
from .steps import moved


class Schedule:
    """The noise level of a training time, the time of a noise level, and the levels of a sampler's steps.

    Times run from `first` to `last` and may be fractional; a later time has more noise. A kind of schedule defines
    `_sigma` and `_t`, the same for float64 tensors, and `sigma_min` and `sigma_max`, the levels of its ends.
    """

    steps: int
    first: int = 0
    _sigma: Callable[[Tensor], Tensor]
    _t: Callable[[Tensor], Tensor]

    @property
    def last(self) -> int:
        return self.steps - 1

    def sigma(self, t: float | Tensor) -> Tensor:
        """The noise level at time t, from `first` to `last`, fractional or not; ValueError for a time outside."""
        times = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        if not ((times >= self.first) & (times <= self.last)).all():
            raise ValueError(f"time {t}: expected within {self.first} and {self.last}")
        return self._sigma(times)

    def t(self, sigma: float | Tensor) -> Tensor:
        """The inverse of `sigma`: a fractional time. Levels beyond the training range give its ends: 0 is `first`."""
        return self._t(torch.as_tensor(sigma, dtype=torch.float64, device="cpu"))

    def sigmas_for(self, n: int, spacing: str = "linspace") -> Tensor:
        """The n + 1 noise levels of a sampler of n steps: falling, then 0. (n + 1,) float64 on the CPU, for any n >= 1.

        `spacing` is a word of `SPACINGS`. Raises ValueError for n < 1 or an unknown word.
        """
        if n < 1:
            raise ValueError(f"{n} steps: expected at least 1")
        if spacing not in SPACINGS:
            raise ValueError(f"unknown spacing {spacing!r}; there are {', '.join(SPACINGS)}")
        return torch.cat([SPACINGS[spacing](self, n), torch.zeros(1, dtype=torch.float64)])


@dataclass(frozen=True)
class BetaSchedule(Schedule):
    """`steps` training times t = 0 ... steps - 1 with a beta each; the defaults are Stable Diffusion's.

    Between two training times log sigma is interpolated linearly, as k-diffusion does.
    Raises ValueError for a `kind` that is not in `BETAS`, fewer than two steps, and what `check_betas` refuses.
    """

    kind: str = "scaled_linear"
    start: float = 0.00085
    end: float = 0.012
    steps: int = 1000

    def __post_init__(self):
        if self.kind not in BETAS:
            raise ValueError(f"unknown betas {self.kind!r}; there are {', '.join(BETAS)}")
        check_betas(self)

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

    @cached_property
    def _log_sigmas(self) -> Tensor:
        return self.sigmas.log()

    @property
    def sigma_min(self) -> float:
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        return float(self.sigmas[-1])

    def _sigma(self, times: Tensor) -> Tensor:
        low = times.floor().long().clamp(max=self.steps - 2)
        return torch.lerp(self._log_sigmas[low], self._log_sigmas[low + 1], times - low).exp()

    def _t(self, levels: Tensor) -> Tensor:
        logs = levels.log()
        low = (torch.searchsorted(self._log_sigmas, logs.contiguous(), right=True) - 1).clamp(0, self.steps - 2)
        below, above = self._log_sigmas[low], self._log_sigmas[low + 1]
        return low + ((logs - below) / (above - below)).clamp(0, 1)


def levels(sigma: float | Tensor, z: Tensor) -> Tensor:
    """One level for all items of z as (), b of them as (b, 1, 1, 1): float64 on the CPU, exact for any dtype of z.

    Raises ValueError unless it is one finite number >= 0, or b of them.
    """
    s = torch.as_tensor(sigma, dtype=torch.float64, device="cpu")
    if s.numel() not in (1, len(z)) or s.dim() > 1:
        raise ValueError(f"noise levels of shape {tuple(s.shape)} for {len(z)} latents; expected one, or one an item")
    if not ((s >= 0) & s.isfinite()).all():
        raise ValueError(f"noise level {sigma}: expected a finite number >= 0")
    return s.reshape(()) if s.numel() == 1 else s.reshape(-1, 1, 1, 1)


def factor(c: Tensor, z: Tensor) -> Tensor:
    """Coefficients as factors of z: in its dtype, on its device; one alone stays on the CPU, for any device."""
    return moved(c.to(z.dtype), z.device) if c.dim() else c.to(z.dtype)


def linspace(schedule: Schedule, n: int) -> Tensor:
    """Evenly spaced, fractional times from the last to the first: k-diffusion's `get_sigmas`, the authors' choice."""
    return schedule.sigma(torch.linspace(schedule.last, schedule.first, n, dtype=torch.float64))


SPACINGS: dict[str, Callable[[Schedule, int], Tensor]] = {"linspace": linspace, "leading": leading, "karras": karras}
"""(schedule, n) -> n falling noise levels, without the final 0"""
