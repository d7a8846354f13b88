"""What a denoiser learns from, an example at a time: a text, the picture to edit, and the picture to make.

Three sources: edits of the tiny world, encoded before (`World`); any set of pairs, opened and cropped as they are asked
for (`Pictures`); and such a set, precomputed (`Stored`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..data.crops import Crop
from ..data.edits import Edits
from ..data.latents import Latents
from ..data.scenes import Edit
from . import draws
from .latents import LatentEdits


@dataclass(frozen=True, kw_only=True)
class Example:
    """A text, and either two pictures (2, 3, y, x) in [-1, 1], the source first, or what an autoencoder makes of them:
    (3, c, y, x), the source's mode, the target's mean and standard deviation, in the autoencoder's unit."""

    text: str
    pixels: Tensor | None = None
    latents: Tensor | None = None


class Examples(Protocol):
    """A set of them."""

    def __len__(self) -> int: ...

    def example(self, i: int, rng: np.random.Generator, step: int) -> Example:
        """Item i, as `rng` has it: how it is cropped, mirrored and worded. Raises ValueError that names a broken one."""


@dataclass(frozen=True)
class World:
    """Edits of the tiny world; `text` words them: (edit, rng, step) -> str."""

    edits: LatentEdits
    text: Callable[[Edit, np.random.Generator, int], str]

    def __len__(self) -> int:
        return len(self.edits)

    def example(self, i: int, rng: np.random.Generator, step: int) -> Example:
        edit, source, target = self.edits[i]
        return Example(text=self.text(edit, rng, step), latents=torch.stack([source, *target]))


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pairs of a set as pictures: those of `items`, each cropped and mirrored anew every time, both pictures alike."""

    edits: Edits
    items: Sequence[int]
    size: int
    resize: Sequence[int]
    flip: float

    def __len__(self) -> int:
        return len(self.items)

    def example(self, i: int, rng: np.random.Generator, step: int) -> Example:
        return self._cropped(i, Crop.draw(rng, self.resize, self.flip))

    def plain(self, i: int) -> Example:
        """Item i, the same every time: its middle, not mirrored."""
        return self._cropped(i, Crop(side=self.size, left=0.5, top=0.5))

    def _cropped(self, i: int, crop: Crop) -> Example:
        pair = self.edits[self.items[i]]
        return Example(text=pair.instruction, pixels=crop(pair.source, pair.target, self.size))


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Pairs of a precomputed set: those of `items`, each time in one of the crops that were encoded."""

    latents: Latents
    items: Sequence[int]

    def __len__(self) -> int:
        return len(self.items)

    def example(self, i: int, rng: np.random.Generator, step: int) -> Example:
        return self._variant(i, int(rng.integers(self.latents.variants)))

    def plain(self, i: int) -> Example:
        """Item i, the same every time: its first crop, not mirrored."""
        return self._variant(i, 0)

    def _variant(self, i: int, variant: int) -> Example:
        item = self.items[i]
        return Example(text=self.latents.instructions[item], latents=self.latents.read(item, variant))


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Several sets, each with its share of the pictures, gone through in epochs of its own."""

    sets: Sequence[Examples]
    shares: Sequence[float]
    seed: int
    skip_broken: bool = False

    def example(self, number: int, rng: np.random.Generator, step: int) -> tuple[Example, list[str]]:
        """Picture `number` of the run, and what was broken of what was to be it."""
        which, nth = draws.turn(number, self.shares)
        broken: list[str] = []
        chosen = self.sets[which]
        for at in range(nth, nth + 2 * len(chosen)):  # a whole epoch is within: every item has its turn
            try:
                return chosen.example(draws.place(self.seed, which, at, len(chosen)), rng, step), broken
            except ValueError as error:
                if not self.skip_broken:
                    raise ValueError(f"{error}; --skip-broken takes the next pair in its place") from None
                broken.append(str(error))
        raise ValueError(f"none of the {len(chosen)} pairs can be read; the last: {broken[-1]}")
