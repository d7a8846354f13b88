"""Prompt-to-Prompt as InstructPix2Pix uses it: the edited picture attends where its source does (section 3.1.2).

For the first part of the steps the edited picture uses the source's self-attention logits, in every layer and in all
guidance branches. Logits are q k^T, so it is enough to give it the source's q and k: no map is ever computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..nn.site import Site
from .run import AtSites, Control, Run, check_fraction


@dataclass(frozen=True)
class Share(Control):
    """Share self-attention while `share` > i / (steps - 1), i = 0 ... steps - 1: one number, or one per item.

    Raises ValueError for a share outside of 0 ... 1.
    """

    share: float | Sequence[float] = 0.5

    def bind(self, run: Run) -> Control:
        share = self.share
        shares = [share] * len(run.sources) if isinstance(share, (int, float)) else list(share)
        if len(shares) != len(run.sources):
            raise ValueError(f"{len(shares)} shares for {len(run.sources)} items; expected one, or one per item")
        cuts = tuple(run.cut(shared_steps(check_fraction("share", share), run.steps)) for share in shares)
        return ScheduledShare(sources=run.sources, cuts=cuts)


def shared_steps(share: float, steps: int) -> int:
    """The number of steps with share > i / (steps - 1); they are the first ones."""
    return sum(share > i / max(steps - 1, 1) for i in range(steps))


@dataclass(frozen=True, kw_only=True)
class ScheduledShare(Control):
    """Item i attends with q and k of item sources[i] while sigma > cuts[i].

    branch: only in that guidance branch; None is all. pixels: only at sites of at most so many pixels; None is all.
    """

    sources: Sequence[int]
    cuts: Sequence[float]
    branch: int | None = None
    pixels: int | None = None

    def for_call(self, sigma: float, branches: Sequence[int], b: int) -> "SelfAttentionInjection | None":
        taken = [source if sigma > cut else i for i, (source, cut) in enumerate(zip(self.sources, self.cuts))]
        own = list(range(b))
        rows = [
            g * b + i for g, branch in enumerate(branches) for i in (taken if self.branch in (None, branch) else own)
        ]
        return None if rows == list(range(len(rows))) else SelfAttentionInjection(rows, self.pixels)


class SelfAttentionInjection(AtSites):
    """In self-attention, row r takes q and k of row rows[r] and keeps its own v."""

    def __init__(self, rows: Sequence[int], pixels: int | None = None):
        self.rows, self.pixels = torch.tensor(rows), pixels

    def inputs(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> tuple[Tensor, Tensor, Tensor]:
        if site.kind != "self" or (self.pixels is not None and q.shape[2] > self.pixels):
            return q, k, v
        self.rows = self.rows.to(q.device)
        return self.taken(q), self.taken(k), v

    def taken(self, x: Tensor) -> Tensor:
        """x (b, h, n, d) with rows `rows`; selected as (b, n, h, d), in which each row is contiguous."""
        return x.transpose(1, 2).index_select(0, self.rows).transpose(1, 2)
