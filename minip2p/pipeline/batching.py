"""Lists of inputs in, lists of results out: items, batches, progress and checks, the same for every verb.

A verb describes its item (`Item`), then loops over batches of them (`Work`); `edit.py` shows how.
"""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, Generic, NamedTuple, TypeGuard, TypeVar

import torch
from torch import Tensor

from ..diffusion import Step
from ..schema import LARGEST_SIDE, MOST_STEPS

OUTPUTS = ("pil", "tensor", "latent")


class Progress(NamedTuple):
    """What `on_step` receives after every step of every batch."""

    done: int
    """steps so far, of all batches"""
    total: int
    items: tuple[int, ...]
    """the numbers of the items in this batch"""
    step: Step
    """its `.denoised` (b, c, y, x) is a preview for `Pipeline.decode`"""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One result to make. Raises ValueError for a value that its option cannot have (`check`)."""

    number: int
    seed: int
    steps: int
    """of the sampler"""

    def __post_init__(self):
        check(**vars(self))

    @property
    def group(self) -> Hashable:
        """Items of one group can share a batch."""
        return None

    @property
    def steps_to_run(self) -> int:
        """How many steps it reports. With none its result is known without running anything."""
        return self.steps


SomeItem = TypeVar("SomeItem", bound=Item)


class Work(Generic[SomeItem]):
    """The items of one call, and their results by number.

    Lists among `columns` are equally long and give one item each; any other value holds for every item, except that
    a single seed counts up from the first. Raises ValueError for lists of unequal length.
    """

    def __init__(self, kind: type[SomeItem], on_step: Callable[[Progress], None] | None, **columns: Any):
        lengths = {name: len(value) for name, value in columns.items() if is_list(value)}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{name} has {n}" for name, n in lengths.items())
            raise ValueError(f"lists of unequal length: {counts}")
        n = next(iter(lengths.values()), 1)
        rows = [{name: value[i] if is_list(value) else value for name, value in columns.items()} for i in range(n)]
        self.items = [kind(number=i, **row) for i, row in enumerate(rows)]
        if not is_list(columns["seed"]):
            self.items = [replace(item, seed=item.seed + item.number) for item in self.items]
        self.many = bool(lengths)
        self.results: dict[int, Any] = {}
        self.on_step, self.done, self.total = on_step, 0, 0

    def batches(self, size: int) -> Iterator[list[SomeItem]]:
        """The items that have no result yet: those of one group and equally many steps together, at most `size`."""
        groups: dict[Hashable, list[SomeItem]] = {}
        for item in self.items:
            if item.number not in self.results:
                groups.setdefault((item.group, item.steps_to_run), []).append(item)
        batches = [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]
        self.total = sum(batch[0].steps_to_run for batch in batches)
        yield from batches

    def report(self, batch: Sequence[SomeItem], step: Step) -> None:
        """Tell `on_step` that a batch has taken one more step."""
        self.done += 1
        if self.on_step is not None:
            self.on_step(Progress(self.done, self.total, tuple(item.number for item in batch), step))

    def in_order(self) -> Any:
        """A list of the results, or the only one where no list was given."""
        return [self.results[i] for i in range(len(self.items))] if self.many else self.results[0]


def is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    """Whether a value is several: any sequence but a text."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def common(values: Sequence[float]) -> float | Tensor:
    """One number if all are equal, so that branches of weight 0 are skipped; else one per item, (b,)."""
    return float(values[0]) if len(set(values)) == 1 else torch.tensor(values, dtype=torch.float64)


def finite(x: Tensor, part: str, dtype: torch.dtype | None = None) -> Tensor:
    """x, which a part of the model computed in its own dtype or in this one; ValueError for inf and NaN."""
    if not x.isfinite().all():
        word = str(dtype or x.dtype).removeprefix("torch.")
        advice = "load the model with dtype bfloat16 or float32" if word == "float16" else "its weights are wrong"
        raise ValueError(f"the {part} gave numbers that are not finite in {word}: {advice}")
    return x


def check(**options: Any) -> None:
    """Raise ValueError for the first of these options that cannot have its value. Other names are not checked here:
    words (sampler, spacing, fit) are checked by what they name."""
    for name, x in options.items():
        number = issubclass(type(x), Real) and type(x) is not bool and -math.inf < x < math.inf
        whole = number and issubclass(type(x), Integral)
        for names, good, expected in (
            ("prompt edited_prompt negative instruction", isinstance(x, str), "a text"),
            ("scale text_scale image_scale", number and 0 <= x <= 1000, "a finite number, 0 or more, at most 1000"),
            ("learning_rate tolerance", number and x > 0, "a finite number above 0"),
            ("share strength", number and 0 <= x <= 1, "a number from 0 to 1"),
            ("steps inner", whole and 1 <= x <= MOST_STEPS, f"a whole number, at least 1 and at most {MOST_STEPS}"),
            ("resolution", whole and 1 <= x <= LARGEST_SIDE, f"pixels, at least 1 and at most {LARGEST_SIDE}"),
            ("batch_size n", whole and x >= 1, "a whole number, at least 1"),
            ("seed", whole and 0 <= x < 2**64, "a whole number from 0 to 2^64 - 1"),
            ("output", isinstance(x, str) and x in OUTPUTS, " or ".join(OUTPUTS)),
        ):
            if name in names.split() and not good:
                raise ValueError(f"{name.replace('_', ' ')} {x!r}: expected {expected}")
