"""Which pairs of a set are for training, validation and test: by hashes of their texts, so that they stay there.

train, val, test = split(open_edits("data/pairs"))         # lists of indices
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

from .edits import Edits

SPLITS = (0.9, 0.05, 0.05)
"""the authors': training, validation, test"""
LARGEST = 1 / 20
"""fraction of a set's pairs, above which a group of several pairs is divided"""


def split(edits: Edits, fractions: Sequence[float] = SPLITS) -> list[list[int]]:
    """The pairs' indices in one list per fraction (they add up to 1), each in order; by a hash of `EditText.group`.

    Pairs of one group stay together, and no pair moves when others are added or removed, except where a set has few
    groups (`split_groups`). The lengths are near the fractions, not equal to them. Raises ValueError for other
    fractions.
    """
    return split_groups([(text.group, text.key) for text in edits.texts()], fractions)


def split_groups(pairs: Sequence[tuple[str, str]], fractions: Sequence[float] = SPLITS) -> list[list[int]]:
    """`split` of (group, key) of each pair.

    A large group, as in a set with one caption for all, would fill a split or leave it empty: the pairs of such a group
    fall by hashes of their keys; where they leave a split empty, it gets the one that is nearest to it.
    """
    bounds = _bounds(fractions)
    sizes = Counter(group for group, _ in pairs)
    divided = [i for i, (group, _) in enumerate(pairs) if sizes[group] > max(1, LARGEST * len(pairs))]
    places = [_place(group) for group, _ in pairs]
    for i in divided:
        places[i] = _place("\n".join(pairs[i]))
    found = [_at(place, bounds) for place in places]
    for which, (low, high) in enumerate(zip([0.0, *bounds], bounds)):
        if divided and low < high and which not in found:
            counts = Counter(found)
            spare = [i for i in divided if counts[found[i]] > 1]
            nearest = sorted(spare, key=lambda i: (max(low - places[i], places[i] - high), pairs[i]))[:1]
            found = [which if i in nearest else each for i, each in enumerate(found)]
    return [[i for i, each in enumerate(found) if each == which] for which in range(len(bounds))]


def _place(text: str) -> float:
    """A hash as a number from 0 to 1."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _at(place: float, bounds: Sequence[float]) -> int:
    return next(which for which, bound in enumerate(bounds) if place < bound or bound == 1)


def _bounds(fractions: Sequence[float]) -> list[float]:
    """The end of each split in [0, 1]; the last is 1."""
    fractions = list(fractions)
    if not fractions or not all(0 <= each <= 1 for each in fractions) or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions {', '.join(map(str, fractions))}: expected numbers that add up to 1")
    return [*accumulate(fractions[:-1]), 1.0]
