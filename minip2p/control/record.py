"""Recording cross-attention: which pixels attend to a word.

In the notation of `nn.attention`, p (b, h, n, m) are the probabilities of a site: each of its n = y x pixels spreads a
total of 1 over the m tokens of the text. As in Hertz et al. 2022 (figure 4), they are averaged over heads, steps and
the sites of one size.

    record = Record()
    picture = pipe.generate("a red house", control=[record])
    record.word(positions(pipe.tokenizer, "a red house", "house"))       # (1, y, x)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import interpolate

from .run import Control, Run, Size, WatchCross, check_fraction

NO_RUN = Run(sigmas=(), size=(0, 0), prompts=(), sources=())
"""what a record holds before it is bound"""


@dataclass(kw_only=True, eq=False)
class Record(Control):
    """Averages cross-attention over a run. It changes nothing but the rounding of the (explicit) softmax.

    It sees attention after the controls before it in the list. It keeps one sum per map size, of the current or the
    last run: `bind` clears it. (`edit` and `generate` start a run per batch: with batch_size=1 the record is of the
    last item.)

    during: the part of the run, (from, to) as fractions; a step counts if its middle lies in it. branch: the guidance
    branch, 0 is the one with the text. Raises ValueError for a part outside of 0 ... 1; on `bind`, for a run without
    such steps.
    """

    during: tuple[float, float] = (0.0, 1.0)
    branch: int = 0
    run: Run = field(default=NO_RUN, init=False, repr=False)
    """the run recorded"""
    steps: range = field(default=range(0), init=False, repr=False)
    """its steps that are averaged, counted from 0"""
    _sums: dict[Size, Tensor] = field(default_factory=dict, init=False, repr=False)  # (b, n, m) float32
    _counts: dict[Size, int] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self):
        for fraction in self.during:
            check_fraction("during", fraction)

    def bind(self, run: Run) -> "Record":
        """Itself, emptied: the caller keeps the record and reads it afterwards."""
        self.run, self.steps, self._sums, self._counts = run, steps_of(self.during, run.steps), {}, {}
        return self

    def for_call(self, sigma: float, branches: Sequence[int], b: int) -> WatchCross | None:
        inside = self.run.cut(self.steps.stop) < sigma <= self.run.sigmas[self.steps.start]
        if not inside or self.branch not in branches:
            return None
        return WatchCross(self.add, list(branches).index(self.branch) * b)

    def add(self, p: Tensor, first: int) -> None:
        """Add the probabilities p (r, h, n, m) of one site in one call; the batch's rows start at `first`."""
        mean = p[first : first + len(self.run.prompts)].detach().mean(1, dtype=torch.float32)
        size = map_size(p.shape[2], self.run.map_sizes)
        self._sums[size] = self._sums[size].add_(mean) if size in self._sums else mean
        self._counts[size] = self._counts.get(size, 0) + 1

    def maps(self) -> dict[Size, Tensor]:
        """(y, x) -> maps (b, m, y, x), the largest size first: per token, how much each pixel attends to it; they sum
        to 1 over the tokens. Raises ValueError where nothing was recorded."""
        if not self._sums:
            raise ValueError(
                f"nothing was recorded: no cross-attention was run in guidance branch {self.branch} with these options "
                "(a branch of weight 0 never runs, nor does an edit of an empty instruction)"
            )
        means = {size: self._sums[size] / self._counts[size] for size in sorted(self._sums, reverse=True)}
        return {(y, x): rearrange(mean, "b (y x) m -> b m y x", y=y, x=x) for (y, x), mean in means.items()}

    def word(self, tokens: Sequence[int], shape: Size | None = None, size: Size | None = None) -> Tensor:
        """How much each pixel attends to the word at these token positions: (b, y, x), the mean of its tokens' maps.

        The mean over all map sizes unless `size` is given, interpolated to `shape` (y, x), else to the largest map's.
        Raises ValueError for a position out of range, and for a size that has no maps.
        """
        maps = self.maps()
        if size is not None and size not in maps:
            raise ValueError(f"no maps of {size} (y, x) were recorded; there are {', '.join(map(str, maps))}")
        chosen = list(maps.values()) if size is None else [maps[size]]
        if not tokens or not all(0 <= t < chosen[0].shape[1] for t in tokens):
            raise ValueError(f"token positions {list(tokens)}: expected some of 0 to {chosen[0].shape[1] - 1}")
        whole = tuple(shape or chosen[0].shape[2:])
        each = [x[:, list(tokens)].mean(1, keepdim=True) for x in chosen]
        large = [interpolate(x, size=whole, mode="bilinear", align_corners=False) for x in each]
        return torch.cat(large, dim=1).mean(1)


def steps_of(during: tuple[float, float], steps: int) -> range:
    """The steps, counted from 0, whose middle lies in a part of a run, (from, to) as fractions.

    Adjacent parts have no step in common. Raises ValueError if there is no such step.
    """
    inside = [i for i in range(steps) if during[0] <= (i + 0.5) / steps < during[1]]
    if not inside:
        part = f"from {during[0]:g} to {during[1]:g}"
        raise ValueError(f"no step of {steps} lies in the part {part} of the run; take a longer part")
    return range(inside[0], inside[-1] + 1)


def map_size(n: int, sizes: Sequence[Size]) -> Size:
    """(y, x) of a map of n pixels, from the sizes that the network has (`Run.map_sizes`).

    Raises ValueError where none of them has n pixels.
    """
    for y, x in sizes:
        if y * x == n:
            return y, x
    known = ", ".join(f"{y} x {x}" for y, x in sizes)
    raise ValueError(f"a map of {n} pixels; the network says that its maps are {known} (y x)")
