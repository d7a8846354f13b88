"""Sizes of crops: a side or both, the range of sizes before a crop, and those of aspect buckets."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

Sides = tuple[int, int]
"""(width, height) in pixels"""


def sides(size: int | Sequence[int]) -> Sides:
    """(width, height) of a size: a side, or both."""
    width, height = (size, size) if isinstance(size, int) else size
    return width, height


def resize_range(size: int | Sequence[int], resize: Sequence[int] | None = None) -> tuple[int, int]:
    """Limits of `Crop.side`: `resize`, else the paper's, from the shorter side of `size` to 9/8 of it (256 to 288).

    Raises ValueError where that is less than the crop needs.
    """
    shorter = min(sides(size))
    low, high = resize or (shorter, shorter * 9 // 8)
    if not shorter <= low <= high:
        raise ValueError(f"resize = {resize}: expected two sizes, from size = {shorter} on")
    return low, high


def bucket_sizes(size: int, factor: int) -> list[Sides]:
    """The sizes of all buckets, from tall to wide: multiples of `factor`, of at most size^2 pixels and as many as can
    be, between 1 : 4 and 4 : 1."""
    shortest = -(-size // (2 * factor)) * factor
    tall = [(x, size * size // (x * factor) * factor) for x in range(shortest, size, factor)]
    return [*tall, (size, size), *((y, x) for x, y in reversed(tall))]


def nearest(shapes: Sequence[Sides], sizes: Sequence[Sides]) -> list[Sides]:
    """For each shape the size whose ratio of width to height is nearest to its own, as a factor."""
    ratios, theirs = (np.log([x / y for x, y in each]) for each in (shapes, sizes))
    return [sizes[i] for i in np.abs(ratios[:, None] - theirs).argmin(1)] if len(shapes) else []


def assign(shapes: Sequence[Sides], sizes: Sequence[Sides], least: int) -> list[Sides]:
    """The size of each item's bucket. As long as one has fewer than `least` items, the smallest is given up, and each
    of its items goes to the nearest of the others."""
    while True:
        found = nearest(shapes, sizes)
        counts = Counter(found)
        used = [size for size in sizes if counts[size]]
        smallest = min(used, key=lambda size: counts[size], default=None)
        if len(used) <= 1 or counts[smallest] >= least:
            return found
        sizes = [size for size in used if size != smallest]
