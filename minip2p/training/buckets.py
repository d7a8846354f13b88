"""Aspect buckets: pairs of near shapes share a batch, in which all are cropped to one size.

A bucket is a size of about as many pixels as the square. Every pair is in the bucket whose shape is nearest to its
source's. An epoch of a set has all batches of all its buckets, shuffled; the order is a function of the seed and the
step alone, as without buckets.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..data.sizes import Sides
from .data import Example, PairDataset, read_first
from .rng import set_of_item, shuffled_index


def by_size(sizes: Sequence[Hashable]) -> list[list[int]]:
    """The indices of each size, in the order in which the sizes appear first."""
    found: dict[Hashable, list[int]] = {}
    for i, size in enumerate(sizes):
        found.setdefault(size, []).append(i)
    return list(found.values())


@dataclass(frozen=True, kw_only=True)
class BucketMixture:
    """Several sets, as in `Mixture`; a batch is of one bucket of one set.

    The last batch of a bucket is filled up with the first prompts of its epoch: these are seen twice an epoch, all
    others once. Those of a bucket that has less than a batch are repeated until they fill one.
    """

    sets: Sequence[PairDataset]
    weights: Sequence[float]
    """of batches"""
    seed: int
    batch_size: int
    skip_broken: bool = False
    buckets: Sequence[Sequence[np.ndarray]] = field(init=False)
    """of each set: the prompts of each bucket"""

    def __post_init__(self):
        found = [[np.array(rows) for rows in by_size(each.sizes)] for each in self.sets]
        object.__setattr__(self, "buckets", found)

    def size(self, step: int) -> Sides:
        """Of the images in a step's batch."""
        which, _, bucket, _ = self._batch(step)
        return self.sets[which].sizes[self.buckets[which][bucket][0]]

    def example(self, number: int, rng: np.random.Generator, step: int) -> tuple[Example, list[str]]:
        """Item `number` of the run, which is in this step, and the errors of broken items that it replaces."""
        which, epoch, bucket, first = self._batch(step)
        prompts = self.buckets[which][bucket]
        n, at = len(prompts), first + number - step * self.batch_size
        stream = len(self.sets) + sum(map(len, self.buckets[:which])) + bucket  # no other shuffles by this number
        order = (prompts[shuffled_index(self.seed, stream, epoch * n + i % n, n)] for i in range(at, at + n))
        return read_first(self.sets[which], order, rng, step, self.skip_broken)

    def _batch(self, step: int) -> tuple[int, int, int, int]:
        """(set, epoch of the set, bucket, place of the batch's first item in it) of a step."""
        which, n = set_of_item(step, self.weights)
        ends = np.cumsum([-(-len(each) // self.batch_size) for each in self.buckets[which]])
        batch = shuffled_index(self.seed, which, n, int(ends[-1]))
        bucket = int(np.searchsorted(ends, batch, side="right"))
        before = int(ends[bucket - 1]) if bucket else 0
        return which, n // int(ends[-1]), bucket, (batch - before) * self.batch_size
