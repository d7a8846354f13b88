"""What all evaluations share: held-out samples and Markdown tables."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np

Sample = TypeVar("Sample")
SEEDS = {
    "edits": 2**32 - 2,
    "classifier": 2**32 - 2,
    "text2image": 2**32 - 4,
    "pairs": 2**32 - 5,
    "instructions": 2**32 - 6,
}
"""evaluation -> the seed of its held-out samples. Training uses none of them (its own held-out seed is 2^32 - 1)"""
MOST = 100_000
"""samples of an evaluation"""


def held_out(
    evaluation: str, n: int, sample: Callable[[np.random.Generator], Sample]
) -> tuple[list[Sample], np.random.Generator]:
    """The first n held-out samples of an evaluation, and the generator that drew them. ValueError for another n."""
    if not 1 <= n <= MOST:
        raise ValueError(f"number {n}: expected 1 to {MOST} samples to evaluate")
    rng = np.random.default_rng(SEEDS[evaluation])
    return [sample(rng) for _ in range(n)], rng


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    head, *lines = (f"| {' | '.join(map(str, row))} |" for row in (header, *rows))
    return "\n".join([head, "|---" * len(header) + "|", *lines])
