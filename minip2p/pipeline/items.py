"""What the pipeline's verbs share: lists that meet single values, batches, progress, checks in the user's words."""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..data.images import FITS
from ..diffusion import SAMPLERS, SPACINGS, Step

OUTPUTS = ("pil", "tensor", "latent")
KNOWN = {"sampler": SAMPLERS, "spacing": SPACINGS, "fit": FITS, "output": OUTPUTS}


class Progress(NamedTuple):
    """What `on_step` is told after every step of every batch."""

    done: int
    """steps so far, of all batches"""
    total: int
    items: tuple[int, ...]
    """the items of this batch, by number"""
    step: Step
    """its `.denoised` (b, c, y, x) is a preview for `Pipeline.decode`"""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing to be made."""

    number: int
    seed: int

    def __post_init__(self):
        if isinstance(self.seed, bool) or not isinstance(self.seed, Integral) or not 0 <= self.seed < 2**64:
            raise ValueError(f"seed {self.seed!r}: expected a whole number from 0 to 2^64 - 1")


SomeItem = TypeVar("SomeItem", bound=Item)


def as_items(kind: type[SomeItem], **columns: Any) -> tuple[bool, list[SomeItem]]:
    """Whether any column is a list, and one item a row. What is no list holds for all; a lone seed counts up."""
    lengths = {name: len(value) for name, value in columns.items() if is_list(value)}
    if len(set(lengths.values())) > 1:
        raise ValueError("lists of unequal length: " + ", ".join(f"{name} has {n}" for name, n in lengths.items()))
    n = next(iter(lengths.values()), 1)
    rows = [{name: value[i] if is_list(value) else value for name, value in columns.items()} for i in range(n)]
    items = [kind(number=i, **row) for i, row in enumerate(rows)]
    if not is_list(columns["seed"]):
        items = [replace(item, seed=item.seed + item.number) for item in items]
    return bool(lengths), items


def is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def batches(items: Sequence[SomeItem], size: int, key: Callable[[SomeItem], Hashable]) -> list[list[SomeItem]]:
    """Items of one key together, at most `size` of them."""
    groups: dict[Hashable, list[SomeItem]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]


def run_batches(
    todo: Sequence[tuple[Sequence[SomeItem], int]], start: Callable[[Sequence[SomeItem]], Iterator[Step]],
    finish: Callable[[SomeItem, Tensor], Any], on_step: Callable[[Progress], None] | None, after: Callable[[], None],
) -> dict[int, Any]:
    """What `finish` makes of each item and its last latents (rows, c, y, x), by the item's number.

    todo: batches, each with its number of steps, which `start` sets off. `after` is called after each batch.
    """
    results, done, total = {}, 0, sum(n for _, n in todo)
    for batch, _ in todo:
        for step in start(batch):
            done += 1
            if on_step is not None:
                on_step(Progress(done, total, tuple(item.number for item in batch), step))
        latents = step.z.unflatten(0, (len(batch), -1))
        results |= {item.number: finish(item, z) for item, z in zip(batch, latents, strict=True)}
        after()
    return results


def in_order(results: dict[int, Any], many: bool) -> Any:
    """The results by number as a list, or the only one."""
    return [results[i] for i in range(len(results))] if many else results[0]


def common(values: Sequence[float]) -> float | Tensor:
    """One number where all agree, so that branches of weight 0 are not run; else one an item."""
    return float(values[0]) if len(set(values)) == 1 else torch.tensor(values, dtype=torch.float64)


def check_text(name: str, text: Any) -> None:
    if not isinstance(text, str):
        raise ValueError(f"{name} {text!r}: expected a text")


def check_scale(name: str, scale: Any) -> None:
    if not isinstance(scale, Real) or not 0 <= scale < math.inf:
        raise ValueError(f"{name} {scale!r}: expected a finite number, 0 or more")


def check_counts(**counts: Any) -> None:
    for name, n in counts.items():
        if not isinstance(n, Integral) or isinstance(n, bool) or n < 1:
            raise ValueError(f"{name.replace('_', ' ')} {n!r}: expected a whole number, at least 1")


def check_words(**words: str) -> None:
    """Each a word of `KNOWN[name]`."""
    for name, word in words.items():
        if word not in KNOWN[name]:
            raise ValueError(f"unknown {name} {word!r}; there are {', '.join(KNOWN[name])}")
