"""Prompt-to-Prompt as InstructPix2Pix uses it: the edited picture attends where its source does (section 3.1.2).

For the first part of the steps the edited picture uses the source's self-attention logits, in every layer and in all
guidance branches. Logits are q k^T, so it is enough to give it the source's q and k: no map is ever computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

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

    def bind(self, run: Run) -> "ScheduledShare":
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
    calls: dict[tuple[int, ...], "SelfAttentionInjection"] = field(default_factory=dict, init=False, repr=False)
    """of the rows that were asked for, so that their numbers move to the device once"""

    def for_call(self, sigma: float, branches: Sequence[int], b: int) -> "SelfAttentionInjection | None":
        taken = [source if sigma > cut else i for i, (source, cut) in enumerate(zip(self.sources, self.cuts))]
        own = list(range(b))
        rows = tuple(
            g * b + i for g, branch in enumerate(branches) for i in (taken if self.branch in (None, branch) else own)
        )
        if rows == tuple(range(len(rows))):
            return None
        return self.calls.setdefault(rows, SelfAttentionInjection(rows, self.pixels))


class SelfAttentionInjection(AtSites):
    """In self-attention, row r takes q and k of row rows[r] and keeps its own v."""

    def __init__(self, rows: Sequence[int] | Tensor, pixels: int | None = None):
        self.rows, self.pixels = torch.as_tensor(rows), pixels

    def on(self, device: torch.device) -> Tensor:
        """The rows, on the device from now on."""
        self.rows = self.rows.to(device)
        return self.rows

    def inputs(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> tuple[Tensor, Tensor, Tensor]:
        if site.kind != "self" or (self.pixels is not None and q.shape[2] > self.pixels):
            return q, k, v
        return self.taken(q), self.taken(k), v

    def taken(self, x: Tensor) -> Tensor:
        """x (b, h, n, d) with rows `rows`; selected as (b, n, h, d), in which each row is contiguous."""
        return x.transpose(1, 2).index_select(0, self.on(x.device)).transpose(1, 2)
