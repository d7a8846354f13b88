"""Prompt-to-Prompt in its own authors' way (Hertz et al. 2022): the source's maps are injected, or words weighed.

In the notation of `nn.attention`, p (b, h, n, m) are the probabilities of a site of cross-attention. In guidance branch
0, for a step t and a token j of the edited prompt (section 3.2),

    p_edited[..., j] <- alpha[t, j] (p_source M)[..., j] + (1 - alpha[t, j]) p_edited[..., j]      Replace, Refine
    p_edited[..., j] <- c_j p_edited[..., j], and nothing is renormalised                          Reweight

where M says which token answers to which (`text.align`) and alpha is 1 while the token's window is open. For a shorter
window the edited picture also has the source's self-attention, at its smaller sites. They act in the order of the list:
[Replace(), Reweight({"red": 2})] weighs what was injected, which is Reweight as the authors have it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..nn.attention import Site
from ..text.align import positions, refinement, replacement
from .run import AtSites, Control, Run, check_fraction
from .share import Handover, Windowed

Part = float | tuple[float, float]
"""of a run, as fractions of its steps: up to, or (from, to)"""


class Window(NamedTuple):
    """A part of a run, by noise levels: open while cut < sigma <= first."""

    first: float
    cut: float

    def open(self, sigma: float) -> bool:
        return self.cut < sigma <= self.first


@dataclass(frozen=True, kw_only=True)
class Injection(Control):
    """What Replace and Refine have in common; they differ in which token answers to which.

    cross: the part of the run in which the edited half of a pair has the source's cross-attention. words: parts of
    their own for words of the edited prompt, {"house": (0.1, 0.5)} or {"house": 0.5}. self: the part in which it has
    the source's self-attention, at sites of at most `pixels`. Of N steps a part up to f has int(f (N + 1)) of
    cross-attention, int(f N) of self-attention, as published.

    Raises ValueError for a part that is reversed or not within 0 ... 1; of a run, where it has no pair, the two prompts
    do not answer to each other, or a word is absent.
    """

    cross: Part = 0.8
    self: Part = 0.4
    words: Mapping[str, Part] = field(default_factory=dict)
    pixels: int = 256

    def __post_init__(self):
        check_part("cross", self.cross)
        check_part("self", self.self)
        check_mapping("words", self.words, "parts of a run")
        for word, part in self.words.items():
            check_part(f"cross of the word {word!r}:", part)
        if isinstance(self.pixels, bool) or not isinstance(self.pixels, int) or self.pixels < 0:
            raise ValueError(f"pixels {self.pixels!r}: expected a whole number, 0 or more")

    def mapping(self, tokenizer: Any, prompt: str, edited: str) -> tuple[Tensor, Tensor]:
        """M (m, m), and which of the edited tokens take a map at all: (m,), 1 or 0."""
        raise NotImplementedError

    def over(self, run: Run) -> Control:
        pairs = pairs_of(run, type(self).__name__)
        mapped = [self.mapping(run.tokenizer, run.prompts[s], run.prompts[e]) for s, e in pairs]
        mappers, takes = (torch.stack(each) for each in zip(*mapped))
        windows = torch.tensor(cross_window(run, self.cross), dtype=torch.float64).repeat(*takes.shape, 1)
        for (_, edited), row in zip(pairs, windows):
            for word, part in self.words.items():
                tokens = positions(run.tokenizer, run.prompts[edited], word)
                row[tokens] = torch.tensor(cross_window(run, part), dtype=torch.float64)
        everywhere = (0.0,) * len(run.sources)
        shared = Windowed(sources=run.sources, cuts=everywhere, branch=0, pixels=self.pixels)
        return Injected(pairs, mappers, takes, windows, shared, self_window(run, self.self))


@dataclass(frozen=True, kw_only=True)
class Replace(Injection):
    """Word swap: the words answer to each other in their order, so the prompts have equally many."""

    def mapping(self, tokenizer: Any, prompt: str, edited: str) -> tuple[Tensor, Tensor]:
        mapper = replacement(tokenizer, prompt, edited)
        return mapper, torch.ones(len(mapper))


@dataclass(frozen=True, kw_only=True)
class Refine(Injection):
    """Adding a new phrase: equal tokens answer to each other; those inserted keep their own maps."""

    def mapping(self, tokenizer: Any, prompt: str, edited: str) -> tuple[Tensor, Tensor]:
        mapper, alphas = refinement(tokenizer, prompt, edited)
        j = torch.arange(len(mapper))
        chosen = torch.zeros(len(mapper), len(mapper))
        chosen[mapper, j] = 1  # p_source M is then p_source[..., mapper]
        return chosen, alphas


@dataclass(frozen=True)
class Reweight(Control):
    """Attention re-weighting: the maps of words times a factor, {"fluffy": 2.0}, in a part of the run.

    In a pair that holds for the edited half only; a picture without a source (`generate`, `edit`) has its own maps
    weighed. Factors may be negative, 1 changes nothing. Raises ValueError for a factor that is not finite; of a run,
    for a word that one of those prompts lacks.
    """

    words: Mapping[str, float]
    cross: Part = field(default=1.0, kw_only=True)

    def __post_init__(self):
        check_mapping("words", self.words, "factors")
        if not self.words:
            raise ValueError('no word to reweight; expected a factor a word, e.g. {"fluffy": 2}')
        check_part("cross", self.cross)
        for word, factor in self.words.items():
            if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not math.isfinite(factor):
                raise ValueError(f"factor {factor!r} of the word {word!r}: expected a finite number")

    def over(self, run: Run) -> Control:
        b = len(run.sources)
        sources = {source for i, source in enumerate(run.sources) if source != i}
        factors = torch.ones(b, run.tokenizer.max_length)
        for i in set(range(b)) - sources:
            for word, factor in self.words.items():
                factors[i, positions(run.tokenizer, run.prompts[i], word)] *= factor
        return Reweighted(factors, cross_window(run, self.cross))


# Fitted to a run


class Injected(Control):
    """Replace or Refine, fitted to a run: mappers (p, m, m), takes (p, m), windows (p, m, 2) of pairs (source, edited).
    """

    def __init__(
        self, pairs: Sequence[tuple[int, int]], mappers: Tensor, takes: Tensor, windows: Tensor, shared: Windowed,
        self_window: Window,
    ):
        self.sources, self.edited = (torch.tensor(side) for side in zip(*pairs))
        self.mappers, self.takes, self.windows = mappers, takes, windows
        self.shared, self.self_window = shared, self_window

    def at(self, sigma: float, branches: Sequence[int], b: int) -> "Injecting | Handover | None":
        handover = self.shared.at(sigma, branches, b) if self.self_window.open(sigma) else None
        alpha = self.alpha(sigma)
        if 0 not in branches or not alpha.any():
            return handover
        first = list(branches).index(0) * b
        return Injecting(self.sources + first, self.edited + first, self.mappers, alpha, handover)

    def alpha(self, sigma: float) -> Tensor:
        """(p, m): how much of its map each token of each edited prompt takes from the source."""
        first, cut = self.windows.unbind(-1)
        return self.takes * ((cut < sigma) & (sigma <= first))


class Injecting(AtSites):
    """One UNet call in which rows `edited` take maps of rows `sources`; self-attention is what `handover` says."""

    def __init__(self, sources: Tensor, edited: Tensor, mappers: Tensor, alpha: Tensor, handover: Handover | None):
        self.sources, self.edited, self.handover = sources, edited, handover
        self.mappers, self.alpha = mappers[:, None], alpha[:, None, None]  # for p h m m and p h n m

    def inputs(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> tuple[Tensor, Tensor, Tensor]:
        return (q, k, v) if self.handover is None else self.handover.inputs(q, k, v, site)

    def needs_probs(self, site: Site) -> bool:
        return site.kind == "cross"

    def probs(self, p: Tensor, site: Site) -> Tensor:
        self.sources, self.edited = self.sources.to(p.device), self.edited.to(p.device)
        self.mappers, self.alpha = self.mappers.to(p), self.alpha.to(p)
        injected = self.alpha * (p[self.sources] @ self.mappers) + (1 - self.alpha) * p[self.edited]
        return p.index_copy(0, self.edited, injected)


class Reweighted(Control):
    """Reweight, fitted to a run: factors (b, m)."""

    def __init__(self, factors: Tensor, window: Window):
        self.factors, self.window = factors, window

    def at(self, sigma: float, branches: Sequence[int], b: int) -> "Reweighting | None":
        if 0 not in branches or not self.window.open(sigma) or (self.factors == 1).all():
            return None
        factors = torch.ones(len(branches), *self.factors.shape)
        factors[list(branches).index(0)] = self.factors
        return Reweighting(factors.flatten(0, 1))


class Reweighting(AtSites):
    """One UNet call in which the maps (r, h, n, m) of each row are weighed by its factors (r, m)."""

    def __init__(self, factors: Tensor):
        self.factors = factors[:, None, None]

    def needs_probs(self, site: Site) -> bool:
        return site.kind == "cross"

    def probs(self, p: Tensor, site: Site) -> Tensor:
        self.factors = self.factors.to(p)
        return p * self.factors


# Parts of a run, pairs of a batch


def cross_window(run: Run, part: Part) -> Window:
    return _window(run, part, run.steps + 1)


def self_window(run: Run, part: Part) -> Window:
    return _window(run, part, run.steps)


def _window(run: Run, part: Part, n: int) -> Window:
    """The steps int(from n) ... int(to n) - 1, as published."""
    start, end = (int(fraction * n) for fraction in _ends(part))
    return Window(first=run.cut(start) if start else math.inf, cut=run.cut(end))


def _ends(part: Part) -> tuple[float, float]:
    return (0.0, part) if isinstance(part, (int, float)) else tuple(part)


def pairs_of(run: Run, name: str) -> list[tuple[int, int]]:
    """(source, edited) of every pair in a run, by their numbers in the batch. Raises ValueError where there is none."""
    pairs = [(source, i) for i, source in enumerate(run.sources) if source != i]
    if not pairs:
        raise ValueError(f"{name} makes one picture after another and here is no pair of them; use it in generate_pair")
    return pairs


def check_part(name: str, part: Part) -> None:
    """Raises ValueError unless `part` is a number from 0 to 1, or two of them that do not fall."""
    ends = (0.0, part) if not isinstance(part, (tuple, list)) else part
    if len(ends) != 2:
        raise ValueError(f"{name} {part!r}: expected a number from 0 to 1, or two: from and to")
    start, end = (check_fraction(name, fraction) for fraction in ends)
    if start > end:
        raise ValueError(f"{name} {part!r}: the part of a run ends before it begins; did you mean {(end, start)}?")


def check_mapping(name: str, value: Any, of: str) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(word, str) for word in value):
        raise ValueError(f"{name} {value!r}: expected {of} by words, e.g. {{'house': 0.5}}")
