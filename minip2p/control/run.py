"""What a control is, and what it knows of the run that it is part of.

A control is a value with three methods. `bind(run)` fits it to a run: noise levels, latent size, prompts. Before every
network call, `for_call(sigma, branches, b)` returns what attention has to ask in that call (`nn.attention`).
`wrap(field)` may change the field that is sampled. A control counts neither steps nor layers, so it works with any
sampler and any guidance. Rows of a call are "(g b)".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..nn.site import AttentionControl, Site

Size = tuple[int, int]
"""y and x"""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of a sampler over b items."""

    sigmas: tuple[float, ...]
    """the noise levels, falling: one more than there are steps"""
    size: Size
    """of the latents"""
    map_sizes: tuple[Size, ...] = ()
    """of the network's attention maps, the largest first"""
    prompts: tuple[str, ...]
    """the text of each item, on which guidance branch 0 is conditioned"""
    sources: tuple[int, ...]
    """for each item the item that it is made from: itself, unless it is the edited half of a pair"""
    tokenizer: Any = None

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    def cut(self, steps: int) -> float:
        """The noise level at which a window of the first `steps` steps ends: it is open while sigma > this."""
        return self.sigmas[max(0, min(steps, self.steps))]


def bind(
    controls: Sequence["Control"],
    pipe: Any,
    sigmas: Tensor,
    size: tuple[int, int],
    prompts: Sequence[str],
    sources: Sequence[int] | None = None,
) -> list["Control"]:
    """The controls, each fitted to a run of this pipeline. sources: items are their own unless given."""
    run = Run(
        sigmas=tuple(sigmas.tolist()),
        size=(size[0], size[1]),
        map_sizes=tuple(pipe.unet.map_sizes(size)),
        tokenizer=pipe.tokenizer,
        prompts=tuple(prompts),
        sources=tuple(sources or range(len(prompts))),
    )
    return [each.bind(run) for each in controls]


class Control:
    """Does nothing; a control overrides what it needs of these three methods."""

    def bind(self, run: Run) -> "Control":
        """This control, fitted to a run. Raises ValueError where it does not fit, e.g. for a word that is absent."""
        return self

    def for_call(self, sigma: float, branches: Sequence[int], b: int) -> AttentionControl | None:
        """What it does in the network call at noise level `sigma` on rows (g b), g the branches of these numbers.

        None: nothing. Branch 0 is the one with the text.
        """
        return None

    def wrap(self, field: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, float], Tensor]:
        """The field (z, sigma) -> denoised to sample, given the guided one."""
        return field


class AtSites(AttentionControl):
    """Leaves attention as it is at every site; overrides change it."""

    def inputs(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> tuple[Tensor, Tensor, Tensor]:
        return q, k, v

    def needs_probs(self, site: Site) -> bool:
        return False

    def probs(self, p: Tensor, site: Site) -> Tensor:
        return p


class WatchCross(AtSites):
    """Hands the probabilities p (r, h, n, m) of every cross-attention site to `add(p, first)` and leaves them as they
    are; the rows of the watched branch start at `first`."""

    def __init__(self, add: Callable[[Tensor, int], None], first: int):
        self.add, self.first = add, first

    def needs_probs(self, site: Site) -> bool:
        return site.kind == "cross"

    def probs(self, p: Tensor, site: Site) -> Tensor:
        self.add(p, self.first)
        return p


def check_fraction(name: str, value: float) -> float:
    """`value` as a float. Raises ValueError unless it is a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name} {value!r}: expected a number from 0 to 1")
    return float(value)
