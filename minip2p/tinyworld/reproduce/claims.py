"""Whether what came out has the shape that the paper claims: by a rule on a number and its interval, not by eye.

fewer = Claim(paper="Figure 3", words="...", measured="...", number=mean(other - common), above=0.05)
fewer.verdict          # "agrees", "disagrees" or "undecided"
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...evaluation.summary import LEVEL, RESAMPLES, estimate, resamples
from ..evaluation.common import markdown

AGREES, DISAGREES, UNDECIDED = "agrees", "disagrees", "undecided"
RULE = (
    f"A claim is that a number lies above a bound. It **agrees** if the number's whole {LEVEL:.0%} interval "
    f"({RESAMPLES} bootstrap resamples of the items) lies above it, **disagrees** if the whole interval lies below "
    "it, and is **undecided** otherwise."
)


@dataclass(frozen=True)
class Estimate:
    """A number and its bootstrap interval."""

    value: float
    low: float
    high: float

    def shown(self, form: str = ".1%") -> str:
        """ "12.3% [11.0%, 13.5%]"; a difference is shown with form "+.1%"."""
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"


def mean(values: np.ndarray) -> Estimate:
    """The mean of (n,) values, or of (seeds, n)."""
    found = estimate(values.astype(float))
    return Estimate(found["mean"], found["low"], found["high"])


def statistic(of: Callable[[np.ndarray], np.ndarray], n: int) -> Estimate:
    """Anything that can be computed of n weighted items: of(weights (r, n), each row of sum 1) -> (r,)."""
    low, high = np.quantile(of(resamples(n)), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(of(np.full((1, n), 1 / n))[0]), float(low), float(high))


def ratio(part: np.ndarray, whole: np.ndarray, minus: Sequence[np.ndarray] = ()) -> Estimate | None:
    """The sum of (n,) counts over that of others, such as exact pairs over kept pairs; minus the same of two others.

    Items are what is drawn independently, such as captions of which each has several pairs. None for 0 / 0.
    """
    if not whole.any() or (minus and not minus[1].any()):
        return None

    def of(weights: np.ndarray) -> np.ndarray:
        one, other = (
            (weights @ top) / np.maximum(weights @ below, 1e-12)
            for top, below in ((part, whole), minus or (np.zeros(len(part)), np.ones(len(part))))
        )
        return one - other

    return statistic(of, len(part))


def slope(values: Sequence[np.ndarray], at: Sequence[float]) -> Estimate:
    """The least-squares slope of a curve at these places, whose points, (n,) values each, are paired."""
    x = np.asarray(at) - np.mean(at)
    return mean((x / (x @ x)) @ np.stack(values))


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Something that the paper says, as a number that lies above a bound."""

    paper: str
    """where the paper says it: figure or section"""
    words: str
    """what it says"""
    measured: str
    """what the number is"""
    number: Estimate | None
    """None if it cannot be computed, as when two curves have nothing in common"""
    above: float = 0.0
    """the bound; where an effect could be too small to matter, the smallest that does"""
    form: str = "+.1%"
    """of the number"""

    @property
    def verdict(self) -> str:
        if self.number is None:
            return UNDECIDED
        return AGREES if self.number.low > self.above else DISAGREES if self.number.high < self.above else UNDECIDED

    def to_dict(self) -> dict[str, str]:
        """As texts, for the report."""
        found = "no number" if self.number is None else self.number.shown(self.form)
        texts = {"paper": self.paper, "claim": self.words, "measured": self.measured, "found": found}
        return texts | {"bound": f"{self.above:{self.form}}", "verdict": self.verdict}


def table(claims: Sequence[Mapping[str, Any]]) -> str:
    """Claims as Markdown, from `Claim.to_dict`."""
    heads = ["the paper", "claims", "measured as", "came out", "above", "shape"]
    keys = ("paper", "claim", "measured", "found", "bound")
    return markdown(heads, ([*(claim[key] for key in keys), f"**{claim['verdict']}**"] for claim in claims))
