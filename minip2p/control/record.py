"""Recording attention maps: which pixels attend to a word, and where a pixel attends.

In the notation of `nn.attention`, p (b, h, n, m) are the probabilities of a site: each of its n = y x pixels spreads a
total of 1 over m keys, the tokens of the text (cross-attention) or the pixels themselves (self-attention). As in Hertz
et al. 2022 (figure 4), they are averaged over heads, steps and the sites of one size.

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

from ..nn.site import Site
from .run import AtSites, Control, Run, check_fraction

Size = tuple[int, int]
KINDS = ("cross", "self")
PLACES = ("down", "mid", "up")
NO_RUN = Run(sigmas=(), size=(0, 0), prompts=(), sources=())
"""what a record holds before it is bound"""


@dataclass(kw_only=True, eq=False)
class Record(Control):
    """Averages attention probabilities over a run. It changes nothing but the rounding of the (explicit) softmax.

    It sees attention after the controls before it in the list. It keeps one sum per map size, of the current or the
    last run: `bind` clears it. (`edit` and `generate` start a run per batch: with batch_size=1 the record is of the
    last item.)

    kind: "cross" or "self". places: of "down", "mid", "up". sizes: only maps of these (y, x); pixels: only maps of at
    most so many pixels. during: the part of the run, (from, to) as fractions; a step counts if its middle lies in it.
    branch: the guidance branch, 0 is the one with the text. items: numbers of items in the batch; None is all. limit:
    bytes that may be kept. (At a self-attention site the softmax itself is branches times heads as large.)

    Raises ValueError for invalid options; on `bind`, for a run without such steps, sizes or items; and before
    computing maps that would exceed `limit`.
    """

    kind: str = "cross"
    places: Sequence[str] = PLACES
    sizes: Sequence[Size] | None = None
    pixels: int | None = None
    during: tuple[float, float] = (0.0, 1.0)
    branch: int = 0
    items: Sequence[int] | None = None
    limit: int = 2**28
    run: Run = field(default=NO_RUN, init=False, repr=False)
    """the run recorded"""
    steps: range = field(default=range(0), init=False, repr=False)
    """its steps that are averaged, counted from 0"""
    _sums: dict[Size, Tensor] = field(default_factory=dict, init=False, repr=False)  # (b, n, m) float32
    _counts: dict[Size, int] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of attention {self.kind!r}; there are {', '.join(KINDS)}")
        if isinstance(self.places, str) or not self.places or not set(self.places) <= set(PLACES):
            raise ValueError(f"places {self.places!r}: expected a list of some of {', '.join(PLACES)}")
        for name, least in (("pixels", 1), ("branch", 0), ("limit", 1)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ValueError(f"{name} {value!r}: expected a whole number of at least {least}")
        for fraction in self.during:
            check_fraction("during", fraction)

    def bind(self, run: Run) -> "Record":
        """Itself, emptied: the caller keeps the record and reads it afterwards."""
        b, there = len(run.prompts), run.map_sizes
        if unknown := [size for size in self.sizes or () if tuple(size) not in there]:
            raise ValueError(f"no maps are {_by(unknown[0])} (y x); this network's are {_list(there)}")
        if wrong := [i for i in self.items or () if not 0 <= i < b]:
            raise ValueError(f"item {wrong[0]} of a batch of {b}; count from 0 to {b - 1}")
        self.run, self.steps, self._sums, self._counts = run, steps_of(self.during, run.steps), {}, {}
        return self

    def for_call(self, sigma: float, branches: Sequence[int], b: int) -> "RecordCall | None":
        inside = self.run.cut(self.steps.stop) < sigma <= self.run.sigmas[self.steps.start]
        if not inside or self.branch not in branches:
            return None
        first = list(branches).index(self.branch) * b
        return RecordCall(self, [first + i for i in (range(b) if self.items is None else self.items)])

    def wanted(self, n: int, site: Site) -> bool:
        """Whether to record maps of n pixels at this site."""
        if site.kind != self.kind or site.place not in self.places or n > (self.pixels or n):
            return False
        return self.sizes is None or map_size(n, self.run.map_sizes) in {tuple(size) for size in self.sizes}

    def check_limit(self, b: int, n: int, m: int) -> None:
        """Raise ValueError if maps (b, n, m) would exceed the limit together with those recorded."""
        size = map_size(n, self.run.map_sizes)
        if size in self._sums:
            return
        new = 4 * b * n * m
        needed = new + sum(4 * each.numel() for each in self._sums.values())
        if needed > self.limit:
            less = f"pixels={n - 1} leaves these out" + (", items takes fewer of the batch" if b > 1 else "")
            raise ValueError(
                f"{self.kind}-attention maps of {_by(size)} take {_mb(new)}, in all {_mb(needed)}, but the limit is "
                f"{_mb(self.limit)}; {less}, limit={needed} allows them"
            )

    def add(self, p: Tensor, rows: Sequence[int]) -> None:
        """Add the probabilities p (r, h, n, m) of one site in one call, at these rows."""
        mean = torch.stack([p[r].detach().mean(0, dtype=torch.float32) for r in rows])
        size = map_size(p.shape[2], self.run.map_sizes)
        self._sums[size] = self._sums[size].add_(mean) if size in self._sums else mean
        self._counts[size] = self._counts.get(size, 0) + 1

    # Reading the maps

    def maps(self, size: Size | None = None) -> dict[Size, Tensor]:
        """(y, x) -> maps (b, m, y, x), the largest size first; or of one size only.

        Cross: per token, how much each pixel attends to it; they sum to 1 over the tokens. Self, m = n: per pixel,
        where it attends; they sum to 1 over y and x.
        """
        pattern = "b (y x) m -> b m y x" if self.kind == "cross" else "b n (y x) -> b n y x"
        return {s: rearrange(self._sums[s] / self._counts[s], pattern, y=s[0], x=s[1]) for s in self._sizes(size)}

    def word(self, tokens: Sequence[int], shape: Size | None = None, size: Size | None = None) -> Tensor:
        """How much each pixel attends to the word at these token positions: (b, y, x), the mean of its tokens' maps.

        The mean over all map sizes unless `size` is given, interpolated to `shape` (y, x), else to the largest map's.
        Raises ValueError for a position out of range.
        """
        self._check_kind("cross", "word")
        sizes = self._sizes(size)
        m = self._sums[sizes[0]].shape[2]
        if not tokens or not all(0 <= t < m for t in tokens):
            raise ValueError(f"token positions {list(tokens)}: expected some of 0 to {m - 1}")
        each = [self._sums[s][:, :, list(tokens)].mean(2) / self._counts[s] for s in sizes]
        return _mean_map(each, sizes, shape or sizes[0])

    def looks(self, at: tuple[float, float], shape: Size | None = None, size: Size | None = None) -> Tensor:
        """Where the pixel at (x, y), as fractions of width and height, attends: (b, y, x), summing to 1.

        size, shape: as for `word`; if `shape` is no multiple of the maps' sizes, the sum is only about 1.
        """
        self._check_kind("self", "looks")
        x, y = (check_fraction("place", value) for value in at)
        sizes, each = self._sizes(size), []
        for s in sizes:
            pixel = min(int(y * s[0]), s[0] - 1) * s[1] + min(int(x * s[1]), s[1] - 1)
            each.append(self._sums[s][:, pixel] / self._counts[s] * (s[0] * s[1]))  # relative to uniform attention
        shape = shape or sizes[0]
        return _mean_map(each, sizes, shape) / (shape[0] * shape[1])

    def _sizes(self, size: Size | None) -> list[Size]:
        """The sizes recorded, the largest first, or the one asked for."""
        there = sorted(self._sums, reverse=True)
        if not there:
            what = f"{self.kind}-attention at {', '.join(self.places)} was run in guidance branch {self.branch}"
            never = "a branch of weight 0 never runs, nor does an edit of an empty instruction"
            raise ValueError(f"nothing was recorded: no {what} with these options ({never})")
        if size is not None and tuple(size) not in there:
            raise ValueError(f"no maps of {_by(size)} (y x) were recorded; there are {_list(there)}")
        return there if size is None else [(size[0], size[1])]

    def _check_kind(self, kind: str, name: str) -> None:
        if self.kind != kind:
            raise ValueError(f"{name} is of {kind}-attention, but this record is of kind={self.kind!r}")


class RecordCall(AtSites):
    """One network call: these rows are recorded."""

    def __init__(self, record: Record, rows: Sequence[int]):
        self.record, self.rows, self.now = record, rows, False

    def inputs(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> tuple[Tensor, Tensor, Tensor]:
        self.now = self.record.wanted(q.shape[2], site)  # attention asks for inputs first
        if self.now:
            self.record.check_limit(len(self.rows), q.shape[2], k.shape[2])
        return q, k, v

    def needs_probs(self, site: Site) -> bool:
        return self.now

    def probs(self, p: Tensor, site: Site) -> Tensor:
        self.record.add(p, self.rows)
        return p


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
    raise ValueError(f"a map of {n} pixels; the network says that its maps are {_list(sizes)} (y x)")


def resize(maps: Tensor, shape: Size) -> Tensor:
    """Maps (b, y, x) interpolated to `shape` (y, x)."""
    return interpolate(maps[:, None], size=tuple(shape), mode="bilinear", align_corners=False)[:, 0]


def _mean_map(each: Sequence[Tensor], sizes: Sequence[Size], shape: Size) -> Tensor:
    """The mean of maps (b, n) of these sizes, interpolated to `shape`."""
    large = [resize(rearrange(x, "b (y x) -> b y x", y=s[0]), shape) for x, s in zip(each, sizes)]
    return sum(large, start=torch.zeros_like(large[0])) / len(large)


def _by(size: Size) -> str:
    return f"{size[0]} x {size[1]}"


def _list(sizes: Sequence[Size]) -> str:
    return ", ".join(map(_by, sizes))


def _mb(n: int) -> str:
    return f"{n / 1e6:,.1f} MB" if n >= 1e5 else f"{n:,} bytes"
