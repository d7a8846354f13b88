"""All random numbers of training, as functions of the seed and an item's number.

Items are numbered through a whole run: number n belongs to step n // batch size. So neither the number of processes,
nor micro-batches, nor stopping and resuming change what is drawn, and there is no generator state to save.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..diffusion import Schedule


def item_generator(seed: int, number: int) -> np.random.Generator:
    """The generator of one item: its crop, its wording, its noise."""
    return np.random.default_rng([seed, number])


def normal(rng: np.random.Generator, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers of this shape, float32."""
    return torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32))


def set_of_item(number: int, weights: Sequence[float]) -> tuple[int, int]:
    """(which, n): item `number` of a mixture is the n-th item, from 0, taken from set `which`.

    Of the first n items, floor(n weight_0 / sum(weights)) are of set 0; the other sets divide the others likewise.
    """
    which, left = 0, list(weights)
    while len(left) > 1:
        fraction = left[0] / sum(left)
        before, after = int(number * fraction), int((number + 1) * fraction)
        if after > before:
            return which, before
        number, which, left = number - before, which + 1, left[1:]
    return which, number


def shuffled_index(seed: int, which: int, n: int, size: int) -> int:
    """Index of the n-th item taken from a set of `size`, which is shuffled anew each epoch."""
    epoch, at = divmod(n, size)
    return int(_permutation(seed, which, epoch, size)[at])


@lru_cache(maxsize=8)
def _permutation(seed: int, which: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, which, epoch, size]).permutation(size)


def integers(u: Tensor, schedule: Schedule) -> Tensor:
    """Whole times, each as likely as the others: the paper's code."""
    return schedule.first + (u * (schedule.last - schedule.first + 1)).floor().clamp(max=schedule.last - schedule.first)


def uniform(u: Tensor, schedule: Schedule) -> Tensor:
    """Fractional times."""
    return schedule.first + u * (schedule.last - schedule.first)


def logit_normal(u: Tensor, schedule: Schedule) -> Tensor:
    """Esser et al. 2024, eq. 19, with mean 0 and deviation 1: most times are in the middle. For a flow, log sigma is
    then normal, as in EDM."""
    return uniform(torch.special.ndtri(u).sigmoid(), schedule)


TIMES: dict[str, Callable[[Tensor, Schedule], Tensor]] = {
    "integers": integers,
    "uniform": uniform,
    "logit_normal": logit_normal,
}
"""(uniform numbers in [0, 1), schedule) -> training times"""


def conditioning_dropout(u: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """(drop_text, drop_image), each (b,), from one uniform u (b,) per item (section 3.2.1).

    Text only for u in [0, p), both in [p, 2p), image only in [2p, 3p).
    """
    return u < 2 * p, (u >= p) & (u < 3 * p)
