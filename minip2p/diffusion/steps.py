"""What all samplers share: a step, the noise levels that steps go between, and the noise that they draw."""

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Field = Callable[[Tensor, float], Tensor]
"""(z, sigma) -> denoised, both (b, c, y, x)"""
Draw = Callable[[], Tensor]
"""() -> standard normal noise like z"""


class Step(NamedTuple):
    """One step of a sampler, from sigmas[i] to sigmas[i + 1]."""

    i: int
    """0 ... n - 1"""
    sigma: float
    """the level before the step, sigmas[i]: that of `denoised`"""
    z: Tensor
    """the latent after the step, at sigmas[i + 1]; of the last step, the sample"""
    denoised: Tensor
    """the field at the latent before the step: a preview"""


def pairs(sigmas: Tensor | Sequence[float], falling: bool = False) -> Iterator[tuple[int, float, float]]:
    """(i, sigmas[i], sigmas[i + 1]) as floats. Raises ValueError for levels that no sampler can follow."""
    levels = torch.as_tensor(sigmas, dtype=torch.float64, device="cpu").tolist()
    if len(levels) < 2:
        raise ValueError(f"noise levels {levels}: expected at least two")
    if not all(0 < sigma < math.inf for sigma in levels[:-1]) or not 0 <= levels[-1] < math.inf:
        raise ValueError("noise levels must be finite and above 0; only the last may be 0")
    pairs = list(zip(levels, levels[1:]))
    if any(sigma == after or (falling and sigma < after) for sigma, after in pairs):
        raise ValueError("noise levels must fall at every step; only a sampler that draws no noise may rise")
    return ((i, sigma, after) for i, (sigma, after) in enumerate(pairs))


def ancestral(sigma: float, after: float, eta: float = 1.0) -> tuple[float, float]:
    """The two parts of an ancestral step: (down, up) with down^2 + up^2 = after^2.

    `up` is eta times the deviation of q(z' | z, z0) (DDIM, eq. 16, in this frame), and at most `after`.
    Raises ValueError for an eta that is negative or not finite.
    """
    if not 0 <= eta < math.inf:
        raise ValueError(f"eta {eta}: expected a finite number >= 0")
    if eta == 0:
        return after, 0.0
    up = min(after, eta * after * (1 - (after / sigma) ** 2) ** 0.5)
    return (after**2 - up**2) ** 0.5, up


def moved(x: Tensor, device: torch.device | str) -> Tensor:
    """x, which is on the CPU, on the device; to CUDA from page-locked memory, so that the CPU does not wait for it."""
    kind = torch.device(device).type
    return (x.pin_memory() if kind == "cuda" else x).to(device, non_blocking=kind != "mps")


class Noise:
    """Draws of standard normal noise, (b, c, y, x), each item from a generator of its own.

    An item's noise depends on its seed only, not on its batch, device or dtype: it is drawn on the CPU in float32,
    then moved. For one item the numbers are those of `torch.manual_seed(seed); torch.randn(1, c, y, x)`,
    the order in which the authors' sampler draws: first the start latent, then one draw a step while sigma' > 0.
    Items of equal seeds get equal noise.

    `seeds`: one per item, usually `range(seed, seed + b)`, whole numbers below 2^64. `shape`: (c, y, x).
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
        self.generators = [torch.Generator().manual_seed(operator.index(seed)) for seed in seeds]

    def __call__(self) -> Tensor:
        """The next draw of every item, (b, c, y, x)."""
        draws = [torch.randn(self.shape, generator=generator) for generator in self.generators]
        return moved(torch.stack(draws).to(self.dtype), self.device)

    def start(self, sigma: float | Tensor) -> Tensor:
        """The start of a sampler whose first level is `sigma`: a draw times sigma, not times sqrt(sigma^2 + 1)."""
        return self() * float(sigma)
