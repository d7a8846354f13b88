"""What a control is, and what it may know of the run that it is part of.

A control is a value. `over(run)` fits it to a run: noise levels, latents' size, prompts. Then, before every UNet call,
`at(sigma, branches, b)` says what it does there, as something that attention itself asks (`nn.attention`); so a control
carries no counter of steps or layers, and holds for any sampler and any guidance. Rows of a call are "(g b)".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..nn.attention import AttentionControl, Site


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of a sampler over b items."""

    sigmas: tuple[float, ...]
    """the noise levels, falling: one more than there are steps"""
    size: tuple[int, int]
    """y and x of the latents"""
    prompts: tuple[str, ...]
    """the text of each item, which guidance branch 0 is conditioned on"""
    sources: tuple[int, ...]
    """for each item the one that it is made from: itself, unless it is the edited half of a pair"""
    tokenizer: Any = None

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    def cut(self, steps: int) -> float:
        """The noise level at which a window of the first so many steps is over: it is open while sigma > this."""
        return self.sigmas[max(0, min(steps, self.steps))]


class Control:
    """Does nothing. Those that do something say so in these three."""

    def over(self, run: Run) -> "Control":
        """This control, fitted to a run. Raises ValueError where it does not fit, e.g. for a word that is absent."""
        return self

    def at(self, sigma: float, branches: Sequence[int], b: int) -> AttentionControl | None:
        """What it does in the UNet call at noise level `sigma` on rows (g b), g the guidance branches of these numbers.

        None is nothing. Branch 0 is the one that has the text.
        """
        return None

    def around(self, field: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, float], Tensor]:
        """The guided field (z, sigma) -> denoised, or what is to be sampled in its place."""
        return field


class AtSites(AttentionControl):
    """Leaves attention as it is, everywhere. Those that change something say so in these three."""

    def inputs(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> tuple[Tensor, Tensor, Tensor]:
        return q, k, v

    def needs_probs(self, site: Site) -> bool:
        return False

    def probs(self, p: Tensor, site: Site) -> Tensor:
        return p


def check_fraction(name: str, value: float) -> float:
    """`value` where it is a number from 0 to 1, else a ValueError that names it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name} {value!r}: expected a number from 0 to 1")
    return float(value)
