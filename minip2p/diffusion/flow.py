"""Rectified flow's schedule, and the schedule of a config."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..config import ScheduleConfig
from .betas import BETAS, check_levels
from .schedule import BetaSchedule, Schedule


@dataclass(frozen=True)
class FlowSchedule(Schedule):
    """Rectified flow (Liu et al. 2022): sigma = shift * t / (steps - t) for times t = 1 ... steps - 1.

    Without a shift t / steps is the flow's own time, at which x = (1 - t / steps) z0 + t / steps noise. Pure noise,
    t = steps, is sigma = infinity. Sampling starts one time earlier, at which x still holds z0 / steps (Stable
    Diffusion starts from z0 / 15), so that all levels are finite and float32 steps are exact to 1e-5.
    `shift` moves all times towards noise (Esser et al. 2024, eq. 23; Stable Diffusion 3 samples with 3). Their
    t -> shift t / (1 + (shift - 1) t) is a factor of sigma.
    Raises ValueError for fewer than three steps, a shift that is not a positive number, or levels beyond float32's.
    """

    steps: int = 1000
    shift: float = 1.0
    first = 1  # sigma(0) is 0: no noise, nothing to learn

    def __post_init__(self):
        if self.steps < 3:
            raise ValueError(f"a flow schedule of {self.steps} steps; expected at least 3")
        if not 0 < self.shift < math.inf:
            raise ValueError(f"shift {self.shift}: expected a positive number")
        check_levels(self, f"steps = {self.steps} with shift = {self.shift:.6g}")

    @property
    def sigma_min(self) -> float:
        return self.shift / (self.steps - 1)

    @property
    def sigma_max(self) -> float:
        return self.shift * (self.steps - 1)

    def _sigma(self, times: Tensor) -> Tensor:
        return self.shift * times / (self.steps - times)

    def _t(self, levels: Tensor) -> Tensor:
        levels = levels.clamp(self.sigma_min, self.sigma_max)
        return self.steps * levels / (self.shift + levels)


SCHEDULES: dict[str, Callable[[ScheduleConfig], Schedule]] = {"flow": lambda c: FlowSchedule(c.steps, c.shift)}
"""`config.schedule.kind` -> the schedule of a config; a word of `BETAS` is a `BetaSchedule`"""


def make_schedule(config: ScheduleConfig) -> Schedule:
    """The schedule of a config. Raises ValueError for a kind that is neither in `BETAS` nor in `SCHEDULES`."""
    if config.kind in BETAS:
        return BetaSchedule(config.kind, config.start, config.end, config.steps)
    if config.kind not in SCHEDULES:
        raise ValueError(f"unknown noise schedule {config.kind!r}; there are {', '.join((*BETAS, *SCHEDULES))}")
    return SCHEDULES[config.kind](config)
