"""Local blending (Hertz et al. 2022, section 3.3 and its code): outside of a mask the edited picture is its source.

The mask comes from the cross-attention of named words, or is given. It acts on the denoised prediction,

    D_edited <- D_source + mask (D_edited - D_source)

and the network's input, the edited latent, is blended likewise with the last mask. For a mask of 0 and 1 and a sampler
whose step is linear in z and D, this equals the authors' blending of the latent after each step. Where a mask shrinks
during the run, the sampler's latent still holds what lay under the larger one; it fades by the last step, where z is D.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from ..text.align import positions
from .inject import pairs_of
from .run import Control, Run, Size, WatchCross, check_fraction

Field = Callable[[Tensor, float], Tensor]
Words = str | Sequence[str]


@dataclass(frozen=True, eq=False)
class LocalBlend(Control):
    """The edited half of each pair differs from its source only where `words` are, or inside `mask`.

    words: a word that both prompts have, or two entries (source's, edited prompt's), each a word or a list of words,
    possibly empty. mask: instead of words, (y, x) from 0 (source) to 1, a picture, an array or a tensor, stretched over
    the latents. subtract: a word or a list of words, looked up in both prompts; where they are, the source stays.

    A word's mask is where its map exceeds `threshold` (subtract_threshold) of the map's own maximum. Maps are averaged
    over all steps so far; blending starts after `start`, a fraction of the steps. Of the network's map sizes it takes
    the coarsest whose shorter side is at least 16 (16 x 16 for latents of 64 x 64), else the finest. Maps are taken
    after the controls before this one in the list.

    Raises ValueError for invalid options; on `bind`, for a run without a pair and a word that is absent.
    """

    words: Any = None
    _: KW_ONLY
    mask: Any = None
    threshold: float = 0.3
    start: float = 0.2
    subtract: Words = ()
    subtract_threshold: float = 0.3

    def __post_init__(self):
        if (self.words is None) == (self.mask is None):
            raise ValueError("LocalBlend takes either words or a mask for where the edited picture may differ")
        for name in ("threshold", "start", "subtract_threshold"):
            check_fraction(name.replace("_", " "), getattr(self, name))
        if self.words is not None and not any(self._words):
            raise ValueError(f"words {self.words!r}: expected at least one word")
        _list_of_words(self.subtract)
        if self.mask is not None:
            as_mask(self.mask)

    @property
    def _words(self) -> tuple[list[str], list[str]]:
        """The source's and the edited prompt's."""
        if self.words is None or isinstance(self.words, str):
            both = _list_of_words(self.words or ())
            return both, both
        if len(self.words) != 2:
            raise ValueError(f"words {self.words!r}: expected one word, or two entries: source's, edited prompt's")
        source, edited = map(_list_of_words, self.words)
        return source, edited

    def bind(self, run: Run) -> Control:
        pairs, tokens = pairs_of(run, "LocalBlend"), torch.zeros(2, len(run.sources), 0)
        if any(self._words) or self.subtract:
            tokens = torch.zeros(2, len(run.sources), run.tokenizer.max_length)
            for pair in pairs:
                for i, words in zip(pair, self._words):
                    tokens[0, i, _tokens(run, i, words)] = 1
                for word in _list_of_words(self.subtract):
                    for i, found in zip(pair, _anywhere(run, pair, word)):
                        tokens[1, i, found] = 1
        thresholds = self.threshold, self.subtract_threshold
        mask = None if self.mask is None else fit_mask(as_mask(self.mask), run.size)
        start = run.cut(int(self.start * run.steps)) if self.start else float("inf")
        return BoundBlend(run.size, pairs, tokens, thresholds, mask, start, max(run.map_sizes, key=_rank, default=None))


@dataclass(eq=False)
class BoundBlend(Control):
    """LocalBlend in a run, with the maps seen so far."""

    shape: Size
    """of the latents"""
    pairs: Sequence[tuple[int, int]]
    tokens: Tensor
    """(2, b, m): 1 at the words, and at the words to subtract"""
    thresholds: tuple[float, float]
    given: Tensor | None
    """a mask, in place of the words'"""
    start: float
    """the noise level from which on it blends"""
    size: Size | None
    """of the maps to use"""
    sums: Tensor | None = None
    """of maps (2, b, n)"""
    mask: Tensor | None = None
    """the last one, (p, 1, y, x)"""

    def __post_init__(self):
        self.source, self.edited = (torch.tensor(side) for side in zip(*self.pairs))
        self.watches, self.subtracts = bool(self.tokens.any()), bool(self.tokens[1:].any())

    # Maps

    def for_call(self, sigma: float, branches: Sequence[int], b: int) -> WatchCross | None:
        if 0 not in branches or not self.watches:
            return None
        return WatchCross(self.add, list(branches).index(0) * b)

    def add(self, p: Tensor, first: int) -> None:
        """Add the words' maps in the probabilities p (r, h, n, m) of one site; the batch's rows start at `first`."""
        if self.size is None or p.shape[2] != math.prod(self.size):
            return
        b, self.tokens = self.tokens.shape[1], self.tokens.to(p.device, torch.float32)
        mean = p[first : first + b].detach().mean(1, dtype=torch.float32)
        maps = torch.einsum("bnm,kbm->kbn", mean, self.tokens)
        self.sums = maps if self.sums is None else self.sums + maps

    # Masks

    def wrap(self, field: Field) -> Field:
        def blended(z: Tensor, sigma: float) -> Tensor:
            denoised = field(self.blend(z), sigma)
            if sigma > self.start:
                return denoised
            self.mask = self.masks(denoised)
            return self.blend(denoised)

        return blended

    def blend(self, z: Tensor) -> Tensor:
        """z (b, c, y, x) with the edited halves blended by the last mask; exact where it is 0 or 1."""
        if self.mask is None:
            return z
        self.source, self.edited = self.source.to(z.device), self.edited.to(z.device)  # once: it waits for a GPU
        return z.index_copy(0, self.edited, torch.lerp(z[self.source], z[self.edited], self.mask))

    def masks(self, z: Tensor) -> Tensor:
        """(p, 1, y, x) like z: 1 where the edited half may differ."""
        if self.watches and self.sums is None:
            raise ValueError(
                "LocalBlend has seen no cross-attention maps: the network has none, or a scale of 0 left out the "
                "guidance branch with the text. Choose another scale, or give a mask"
            )
        if self.given is None:
            mask = self.both(0, pool=True).to(z)
        else:
            self.given = self.given.to(z)
            mask = self.given.expand(len(self.edited), *self.shape)
        if self.subtracts:
            mask = mask * ~self.both(1, pool=False)
        return mask[:, None]

    def both(self, kind: int, pool: bool) -> Tensor:
        """(p, y, x): where the words are in the source or the edited half."""
        assert self.sums is not None and self.size is not None  # `masks` has raised otherwise
        maps = self.sums[kind].unflatten(-1, self.size)
        mask = where(maps, self.shape, self.thresholds[kind], pool)
        return mask[self.source.to(mask.device)] | mask[self.edited.to(mask.device)]


def where(maps: Tensor, shape: Size, threshold: float, pool: bool = True) -> Tensor:
    """Maps (b, y, x) -> where they exceed `threshold` of their maximum, (b, *shape); nowhere for a map of zeros.

    First each pixel takes the largest of its 3 x 3 neighbours (`pool`), then the map is enlarged to `shape` by nearest
    neighbour, as published.
    """
    maps = maps[:, None]
    if pool:
        maps = max_pool2d(maps, 3, stride=1, padding=1)
    maps = interpolate(maps, size=shape, mode="nearest")[:, 0]
    return maps > threshold * maps.amax((-2, -1), keepdim=True)


def _rank(size: Size) -> tuple[bool, int]:
    """Higher is better: the coarsest with a shorter side of 16 or more, else the finest."""
    enough = min(size) >= 16
    return enough, -size[0] * size[1] if enough else size[0] * size[1]


def as_mask(mask: Any) -> Tensor:
    """A mask as (y, x) float32. Raises ValueError unless it has two dimensions and values from 0 to 1."""
    if isinstance(mask, Image.Image):
        mask = np.asarray(mask.convert("L"), dtype=np.float32) / 255
    mask = torch.as_tensor(mask).detach().to("cpu", torch.float32)
    if mask.dim() != 2 or mask.numel() == 0:
        raise ValueError(f"a mask of shape {tuple(mask.shape)}; expected one of (y, x)")
    if not ((mask >= 0) & (mask <= 1)).all():
        raise ValueError(f"a mask with values from {mask.min():g} to {mask.max():g}; expected 0 (the source) to 1")
    return mask


def fit_mask(mask: Tensor, shape: Size) -> Tensor:
    """(y, x) -> `shape` by area averaging."""
    return interpolate(mask[None, None], size=shape, mode="area")[0, 0]


def _list_of_words(words: Words) -> list[str]:
    words = [words] if isinstance(words, str) else words
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"words {words!r}: expected a word or a list of words")
    return list(words)


def _tokens(run: Run, i: int, words: Sequence[str]) -> list[int]:
    return [t for word in words for t in positions(run.tokenizer, run.prompts[i], word)]


def _anywhere(run: Run, items: Sequence[int], word: str) -> list[list[int]]:
    """The word's tokens in each item's prompt, or none. Raises ValueError if all prompts lack it."""
    found, error = [], None
    for i in items:
        try:
            found.append(_tokens(run, i, [word]))
        except ValueError as absent:
            error = absent
            found.append([])
    if error is not None and not any(found):
        raise error
    return found
