"""Prompt-to-Prompt as its authors do it (Hertz et al. 2022): inject the source's attention maps, re-weight words.

In the notation of `nn.attention`, p (b, h, n, m) are the probabilities of a cross-attention site. In guidance branch 0,
for a step t and a token j of the edited prompt (section 3.2),

    p_edited[..., j] <- alpha[t, j] (p_source M)[..., j] + (1 - alpha[t, j]) p_edited[..., j]      Replace, Refine
    p_edited[..., j] <- c_j p_edited[..., j], without renormalising                                Reweight

where M maps source tokens to edited tokens (`text.align`) and alpha is 1 while the token's window is open. In a shorter
window the edited picture also uses the source's self-attention, at its smaller sites. Controls act in the order of the
list: [Replace(), Reweight({"red": 2})] re-weights the injected maps, which is the authors' Reweight.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..nn.site import Site
from ..text.align import positions, refinement, replacement
from .run import AtSites, Control, Run, check_fraction
from .share import ScheduledShare, SelfAttentionInjection

Part = float | tuple[float, float]
"""a part of a run as fractions of its steps: up to, or (from, to)"""


class Window(NamedTuple):
    """A part of a run, by noise levels: open while cut < sigma <= first."""

    first: float
    cut: float

    def open(self, sigma: float) -> bool:
        return self.cut < sigma <= self.first


@dataclass(frozen=True, kw_only=True)
class Injection(Control):
    """What Replace and Refine share; they differ in how they map tokens.

    cross: the part of the run in which the edited half of a pair uses the source's cross-attention. words: other parts
    for words of the edited prompt, {"house": (0.1, 0.5)} or {"house": 0.5}. self: the part in which it uses the
    source's self-attention, at sites of at most `pixels` pixels. Of N steps a part up to f has int(f (N + 1)) for
    cross-attention and int(f N) for self-attention, as published.

    Raises ValueError for a part that is reversed or outside of 0 ... 1; on `bind`, for a run without a pair, prompts
    that cannot be aligned, and a word that is absent.
    """

    cross: Part = 0.8
    self: Part = 0.4
    words: Mapping[str, Part] = field(default_factory=dict)
    pixels: int = 256

    def __post_init__(self):
        ends_of("cross", self.cross)
        ends_of("self", self.self)
        check_mapping("words", self.words, "parts of a run")
        for word, part in self.words.items():
            ends_of(f"cross of the word {word!r}:", part)
        if isinstance(self.pixels, bool) or not isinstance(self.pixels, int) or self.pixels < 0:
            raise ValueError(f"pixels {self.pixels!r}: expected a whole number, 0 or more")

    def mapping(self, tokenizer: Any, prompt: str, edited: str) -> tuple[Tensor, Tensor]:
        """M (m, m), and which edited tokens take a map at all: (m,), 1 or 0."""
        raise NotImplementedError

    def bind(self, run: Run) -> Control:
        pairs = pairs_of(run, type(self).__name__)
        mapped = [self.mapping(run.tokenizer, run.prompts[s], run.prompts[e]) for s, e in pairs]
        mappers, takes = (torch.stack(each) for each in zip(*mapped))
        windows = torch.tensor(window(run, self.cross, run.steps + 1), dtype=torch.float64).repeat(*takes.shape, 1)
        for (_, edited), row in zip(pairs, windows):
            for word, part in self.words.items():
                tokens = positions(run.tokenizer, run.prompts[edited], word)
                row[tokens] = torch.tensor(window(run, part, run.steps + 1), dtype=torch.float64)
        everywhere = (0.0,) * len(run.sources)
        shared = ScheduledShare(sources=run.sources, cuts=everywhere, branch=0, pixels=self.pixels)
        return BoundInjection(pairs, mappers, takes, windows, shared, window(run, self.self, run.steps))


@dataclass(frozen=True, kw_only=True)
class Replace(Injection):
    """Word swap: words are paired in their order, so both prompts need equally many."""

    def mapping(self, tokenizer: Any, prompt: str, edited: str) -> tuple[Tensor, Tensor]:
        mapper = replacement(tokenizer, prompt, edited)
        return mapper, torch.ones(len(mapper))


@dataclass(frozen=True, kw_only=True)
class Refine(Injection):
    """Adding a phrase: equal tokens are paired; inserted ones keep their own maps."""

    def mapping(self, tokenizer: Any, prompt: str, edited: str) -> tuple[Tensor, Tensor]:
        mapper, alphas = refinement(tokenizer, prompt, edited)
        j = torch.arange(len(mapper))
        chosen = torch.zeros(len(mapper), len(mapper))
        chosen[mapper, j] = 1  # p_source M is then p_source[..., mapper]
        return chosen, alphas


@dataclass(frozen=True)
class Reweight(Control):
    """Attention re-weighting: multiplies the maps of words by a factor, {"fluffy": 2.0}, in a part of the run.

    In a pair it acts on the edited half only; `generate` and `edit` have one picture, which it acts on. Factors may be
    negative; 1 changes nothing. Raises ValueError for a factor that is not finite; on `bind`, for a word that a prompt
    lacks.
    """

    words: Mapping[str, float]
    cross: Part = field(default=1.0, kw_only=True)

    def __post_init__(self):
        check_mapping("words", self.words, "factors")
        if not self.words:
            raise ValueError('no word to reweight; expected a factor a word, e.g. {"fluffy": 2}')
        ends_of("cross", self.cross)
        for word, factor in self.words.items():
            if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not math.isfinite(factor):
                raise ValueError(f"factor {factor!r} of the word {word!r}: expected a finite number")

    def bind(self, run: Run) -> Control:
        b = len(run.sources)
        sources = {source for i, source in enumerate(run.sources) if source != i}
        factors = torch.ones(b, run.tokenizer.max_length)
        for i in set(range(b)) - sources:
            for word, factor in self.words.items():
                factors[i, positions(run.tokenizer, run.prompts[i], word)] *= factor
        return BoundReweight(factors, window(run, self.cross, run.steps + 1))


# Bound to a run


class BoundInjection(Control):
    """Replace or Refine in a run: mappers (p, m, m), takes (p, m), windows (p, m, 2) of pairs (source, edited)."""

    def __init__(
        self,
        pairs: Sequence[tuple[int, int]],
        mappers: Tensor,
        takes: Tensor,
        windows: Tensor,
        shared: ScheduledShare,
        self_window: Window,
    ):
        self.sources, self.edited = (torch.tensor(side) for side in zip(*pairs))
        self.mappers, self.takes, self.windows = mappers, takes, windows
        self.shared, self.self_window = shared, self_window
        self.calls: dict[tuple, InjectionCall] = {}
        """of the alphas so far, so that their tensors move to the device once"""

    def for_call(
        self, sigma: float, branches: Sequence[int], b: int
    ) -> "InjectionCall | SelfAttentionInjection | None":
        shared_call = self.shared.for_call(sigma, branches, b) if self.self_window.open(sigma) else None
        alpha = self.alpha(sigma)
        if 0 not in branches or not alpha.any():
            return shared_call
        first = list(branches).index(0) * b
        key = first, shared_call, *alpha.flatten().tolist()
        if key not in self.calls:
            rows = self.sources + first, self.edited + first
            self.calls[key] = InjectionCall(*rows, self.mappers, alpha, shared_call)
        return self.calls[key]

    def alpha(self, sigma: float) -> Tensor:
        """(p, m): how much of its map each token of each edited prompt takes from the source."""
        first, cut = self.windows.unbind(-1)
        return self.takes * ((cut < sigma) & (sigma <= first))


class InjectionCall(AtSites):
    """One network call: rows `edited` take maps of rows `sources`; `shared_call` acts on self-attention."""

    def __init__(
        self,
        sources: Tensor,
        edited: Tensor,
        mappers: Tensor,
        alpha: Tensor,
        shared_call: SelfAttentionInjection | None,
    ):
        self.sources, self.edited, self.shared_call = sources, edited, shared_call
        self.mappers, self.alpha = mappers[:, None], alpha[:, None, None]  # for p h m m and p h n m

    def inputs(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> tuple[Tensor, Tensor, Tensor]:
        return (q, k, v) if self.shared_call is None else self.shared_call.inputs(q, k, v, site)

    def needs_probs(self, site: Site) -> bool:
        return site.kind == "cross"

    def probs(self, p: Tensor, site: Site) -> Tensor:
        self.sources, self.edited = self.sources.to(p.device), self.edited.to(p.device)
        self.mappers, self.alpha = self.mappers.to(p), self.alpha.to(p)
        injected = self.alpha * (p[self.sources] @ self.mappers) + (1 - self.alpha) * p[self.edited]
        return p.index_copy(0, self.edited, injected)


class BoundReweight(Control):
    """Reweight in a run: factors (b, m)."""

    def __init__(self, factors: Tensor, window: Window):
        self.factors, self.window = factors, window
        self.calls: dict[tuple, ReweightCall] = {}

    def for_call(self, sigma: float, branches: Sequence[int], b: int) -> "ReweightCall | None":
        if 0 not in branches or not self.window.open(sigma) or (self.factors == 1).all():
            return None
        if tuple(branches) not in self.calls:
            factors = torch.ones(len(branches), *self.factors.shape)
            factors[list(branches).index(0)] = self.factors
            self.calls[tuple(branches)] = ReweightCall(factors.flatten(0, 1))
        return self.calls[tuple(branches)]


class ReweightCall(AtSites):
    """One network call: the maps (r, h, n, m) of each row are multiplied by its factors (r, m)."""

    def __init__(self, factors: Tensor):
        self.factors = factors[:, None, None]

    def needs_probs(self, site: Site) -> bool:
        return site.kind == "cross"

    def probs(self, p: Tensor, site: Site) -> Tensor:
        self.factors = self.factors.to(p)
        return p * self.factors


# Parts of a run, pairs of a batch


def window(run: Run, part: Part, n: int) -> Window:
    """The steps int(from n) ... int(to n) - 1, as published: n is the number of steps for self-attention, and one more
    for cross-attention."""
    start, end = (int(fraction * n) for fraction in ends_of("part", part))
    return Window(first=run.cut(start) if start else math.inf, cut=run.cut(end))


def pairs_of(run: Run, name: str) -> list[tuple[int, int]]:
    """(source, edited) of every pair in a run, by their numbers in the batch. Raises ValueError if there is none."""
    pairs = [(source, i) for i, source in enumerate(run.sources) if source != i]
    if not pairs:
        raise ValueError(f"{name} needs a picture and its source, and here is no pair of them; use it in generate_pair")
    return pairs


def ends_of(name: str, part: Part) -> tuple[float, float]:
    """(from, to) of a part of a run. Raises ValueError unless it is a number from 0 to 1, or two in rising order."""
    ends = part if isinstance(part, (tuple, list)) else (0.0, part)
    if len(ends) != 2:
        raise ValueError(f"{name} {part!r}: expected a number from 0 to 1, or two: from and to")
    start, end = (check_fraction(name, fraction) for fraction in ends)
    if start > end:
        raise ValueError(f"{name} {part!r}: the part of a run ends before it starts; did you mean {(end, start)}?")
    return start, end


def check_mapping(name: str, value: Any, of: str) -> None:
    """Raise ValueError unless a value is a mapping from words."""
    if not isinstance(value, Mapping) or not all(isinstance(word, str) for word in value):
        raise ValueError(f"{name} {value!r}: expected {of} by words, e.g. {{'house': 0.5}}")
