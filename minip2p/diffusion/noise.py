"""Randomness as an input: one generator per item, on the CPU."""

import operator
from collections.abc import Iterable

import torch
from torch import Tensor


class Noise:
    """Draws of standard normal noise, (b, c, y, x), in which each item has a generator of its own.

    An item's noise depends on its seed alone, not on its batch, its device or its dtype: it is drawn on the CPU in
    float32, then moved. For one item the numbers are those of `torch.manual_seed(seed); torch.randn(1, c, y, x)`,
    which is what the authors' sampler consumes: first the start latent, then one draw a step while sigma' > 0.
    Items of equal seeds get equal noise, at every draw.

    `seeds`: one an item, usually `range(seed, seed + b)`. `shape`: (c, y, x).
    Raises ValueError for a seed that is not a whole number of at most 64 bits.
    """

    def __init__(
        self,
        seeds: Iterable[int],
        shape: tuple[int, ...],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        self.shape, self.device, self.dtype = tuple(shape), device, dtype
        self.generators = [_generator(seed) for seed in seeds]

    def __call__(self) -> Tensor:
        """The next draw of every item, (b, c, y, x)."""
        draws = [torch.randn(self.shape, generator=generator) for generator in self.generators]
        return torch.stack(draws).to(self.device, self.dtype)

    def start(self, sigma: float | Tensor) -> Tensor:
        """Where a sampler starts whose first level is `sigma`: a draw times sigma, not times sqrt(sigma^2 + 1)."""
        return self() * float(sigma)


def _generator(seed: int) -> torch.Generator:
    try:
        return torch.Generator().manual_seed(operator.index(seed))
    except (TypeError, RuntimeError, ValueError, OverflowError):
        raise ValueError(f"seed {seed!r}: expected a whole number of at most 64 bits") from None
