"""Prompt-to-Prompt as the paper's authors do it: the edited picture looks where its source looks (section 3.1.2).

For the first part of the steps the source's self-attention logits serve for the edited picture too, in every layer and
in all guidance branches. Logits are q k^T, so it is enough to hand the source's q and k over: no map is ever made.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..nn.attention import Site
from .run import AtSites, Control, Run, check_fraction


@dataclass(frozen=True)
class Share(Control):
    """Share self-attention while `share` > i / (steps - 1), i = 0 ... steps - 1: one number, or one an item.

    Raises ValueError for a share outside of 0 ... 1.
    """

    share: float | Sequence[float] = 0.5

    def over(self, run: Run) -> Control:
        one = isinstance(self.share, (int, float))
        shares = [self.share] * len(run.sources) if one else list(self.share)
        if len(shares) != len(run.sources):
            raise ValueError(f"{len(shares)} shares for {len(run.sources)} items; expected one, or one an item")
        cuts = tuple(run.cut(shared_steps(check_fraction("share", share), run.steps)) for share in shares)
        return Windowed(sources=run.sources, cuts=cuts)


def shared_steps(share: float, steps: int) -> int:
    """For how many steps, from the first: those with share > i / (steps - 1)."""
    return sum(share > i / max(steps - 1, 1) for i in range(steps))


@dataclass(frozen=True, kw_only=True)
class Windowed(Control):
    """Item i attends with q and k of item sources[i] while sigma > cuts[i].

    `branch`: in that guidance branch only; None is in all. `pixels`: at sites of at most so many; None is at all.
    """

    sources: Sequence[int]
    cuts: Sequence[float]
    branch: int | None = None
    pixels: int | None = None

    def at(self, sigma: float, branches: Sequence[int], b: int) -> "Handover | None":
        taken = [source if sigma > cut else i for i, (source, cut) in enumerate(zip(self.sources, self.cuts))]
        own = list(range(b))
        rows = [
            g * b + i
            for g, branch in enumerate(branches)
            for i in (taken if self.branch in (None, branch) else own)
        ]
        return None if rows == list(range(len(rows))) else Handover(rows, self.pixels)


class Handover(AtSites):
    """In self-attention, row r takes q and k of row rows[r] and keeps its own v."""

    def __init__(self, rows: Sequence[int], pixels: int | None = None):
        self.rows, self.pixels = torch.tensor(rows), pixels

    def inputs(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> tuple[Tensor, Tensor, Tensor]:
        if site.kind != "self" or (self.pixels is not None and q.shape[2] > self.pixels):
            return q, k, v
        self.rows = self.rows.to(q.device)
        return self.taken(q), self.taken(k), v

    def taken(self, x: Tensor) -> Tensor:
        """x (b, h, n, d) with rows `rows`; picked where they lie in memory as one piece, (b, n, h, d)."""
        return x.transpose(1, 2).index_select(0, self.rows).transpose(1, 2)
