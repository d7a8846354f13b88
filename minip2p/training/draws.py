"""What training draws at random, as functions of the seed and a picture's number alone.

Pictures are counted through a whole run: number n is in step n // batch size. So neither the ranks that share a batch,
nor how it is cut in parts, nor a stop and a resumption change what is drawn, and no generator has a state to be kept.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def generator(seed: int, number: int) -> np.random.Generator:
    """The picture's own."""
    return np.random.default_rng([seed, number])


def normal(rng: np.random.Generator, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers of this shape, float32."""
    return torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32))


def turn(number: int, shares: Sequence[float]) -> tuple[int, int]:
    """Which of several sets picture `number` is of, and the how many-th of that set it is, from 0.

    Of the first n pictures, set 0 has floor(n share_0 / (all shares)); the others divide what is left likewise.
    """
    which, left = 0, list(shares)
    while len(left) > 1:
        share = left[0] / sum(left)
        before, after = int(number * share), int((number + 1) * share)
        if after > before:
            return which, before
        number, which, left = number - before, which + 1, left[1:]
    return which, number


def place(seed: int, which: int, nth: int, size: int) -> int:
    """The nth item of a set of `size`, which is gone through in a new order each epoch."""
    epoch, at = divmod(nth, size)
    return int(_order(seed, which, epoch, size)[at])


@lru_cache(maxsize=8)
def _order(seed: int, which: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, which, epoch, size]).permutation(size)


def dropout(u: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Which items lose their text and which their image, from one uniform u (b,) each (section 3.2.1).

    Text alone, both, image alone: p each, as u grows.
    """
    return u < 2 * p, (u >= p) & (u < 3 * p)
