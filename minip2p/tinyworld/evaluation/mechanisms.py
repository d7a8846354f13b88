"""Where the layout of an image comes from: pairs in which something else than all self-attention is shared.

Each of WAYS answers a question that is left where sharing self-attention (`control.share`) changes little: is it that
only one guidance branch needs it, is guidance too weak, or does the layout come with the text?
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from ...control import Control, Share
from ...control.run import Run, check_fraction
from ...control.share import SelfAttentionInjection
from ...nn.site import Site


@dataclass(frozen=True)
class ShareIn(Control):
    """Share self-attention as `control.Share` does, in one guidance branch alone: 0 has the text, 1 the null text."""

    share: float
    branch: int

    def bind(self, run: Run) -> Control:
        return replace(Share(self.share).bind(run), branch=self.branch)


@dataclass(frozen=True)
class FirstCaption(Control):
    """The edited image is drawn from its source's caption in this part of the steps, the first ones."""

    part: float

    def bind(self, run: Run) -> Control:
        cut = run.cut(round(check_fraction("part", self.part) * run.steps))
        return _BoundFirstCaption(run.sources, cut)


@dataclass(frozen=True)
class _BoundFirstCaption(Control):
    sources: Sequence[int]
    cut: float
    calls: dict[int, "_OtherText"] = field(default_factory=dict, init=False, repr=False)
    """of the numbers of branches, so that the rows move to the device once"""

    def for_call(self, sigma: float, branches: Sequence[int], b: int) -> "_OtherText | None":
        if sigma <= self.cut:
            return None
        rows = [first + source for first in range(0, len(branches) * b, b) for source in self.sources]
        return self.calls.setdefault(len(branches), _OtherText(rows))


class _OtherText(SelfAttentionInjection):
    """The same of cross-attention: row r takes k and v of row rows[r], which are of its text, and keeps its own q."""

    def inputs(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> tuple[Tensor, Tensor, Tensor]:
        return (q, self.taken(k), self.taken(v)) if site.kind == "cross" else (q, k, v)


WAYS: dict[str, dict[str, Any]] = {
    "share 0.9 with the text alone": {"control": [ShareIn(0.9, branch=0)]},
    "share 0.9 with the null text alone": {"control": [ShareIn(0.9, branch=1)]},
    "scale 7.5, share 0": {"scale": 7.5},
    "scale 7.5, share 0.9": {"scale": 7.5, "share": 0.9},
    "first caption for 20% of the steps": {"control": [FirstCaption(0.2)]},
    "first caption for 50% of the steps": {"control": [FirstCaption(0.5)]},
}
"""how the two images of a pair are made, with the same noise -> options of `generate_pair`, where share is 0 unless
given"""
