"""What is trained on: batches by their number; a denoiser's examples (a text, the image to edit, the edited image)."""

import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data.crops import Crop
from ..data.edits import Edits
from ..data.latents import Latents
from .rng import set_of_item, shuffled_index


class BatchSource(Protocol):
    """What a stage learns from. It pickles and holds no network, so that worker processes can have a copy."""

    def batch(self, step: int, rows: range | None = None) -> Any:
        """The batch of a step, or these rows of it: a function of the config's seed, the step and the rows alone."""


def load_batches(
    source: BatchSource, steps: Sequence[int], parts: Sequence[range], workers: int = 0, pin: bool = False
) -> Iterator[Any]:
    """The parts of each step's batch in turn. Raises what preparing a batch raised, when its turn comes.

    workers: processes that prepare batches ahead, by any start method. pin: page-lock them, for copying to a GPU.
    """
    if workers == 0:
        for step in steps:
            for rows in parts:
                yield source.batch(step, rows)
        return
    loader = DataLoader(
        _Batches(source),
        batch_size=None,
        sampler=[(step, rows) for step in steps for rows in parts],
        num_workers=workers,
        prefetch_factor=4,
        pin_memory=pin,
        worker_init_fn=_ignore_interrupts,
    )
    try:
        for batch in loader:
            if isinstance(batch, Exception):
                raise batch
            yield batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ValueError(f"a worker that prepares batches was killed, usually for want of memory ({error})") from None


class _Batches(Dataset):
    """(step, rows) -> batch, as a DataLoader asks for it."""

    def __init__(self, source: BatchSource):
        self.source = source

    def __getitem__(self, index: tuple[int, range]) -> Any:
        try:
            return self.source.batch(*index)
        except (ValueError, OSError) as error:  # raised in a worker it would arrive with a traceback as its message
            return error


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal; the training process alone decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True, kw_only=True)
class Example:
    """A text with either `pixels` or `latents`."""

    text: str
    pixels: Tensor | None = None
    """(2, 3, y, x) in [-1, 1]: source and target"""
    latents: Tensor | None = None
    """(3, c, y, x): the source's mode, the target's mean and standard deviation; not scaled"""
    states: Tensor | None = None
    """(m, d): the text encoder's states of the text, where they are precomputed with the latents"""


class ExampleSet(Protocol):
    """A set of examples; it pickles."""

    def __len__(self) -> int: ...

    def example(self, i: int, rng: np.random.Generator, step: int) -> Example:
        """Item i; `rng` decides pair, crop and wording. Raises ValueError that names an item that cannot be read."""


Prompts = Sequence[Sequence[int]]
"""what a set draws from: of each prompt the numbers of its pairs, one of which is taken at random"""


@dataclass(frozen=True, kw_only=True)
class PairDataset:
    """The `prompts` of a set of image pairs, with a new random crop and flip each time, the same for both images."""

    edits: Edits
    instructions: Sequence[str | None]
    """of every pair of the set; None where its text cannot be read"""
    prompts: Prompts
    sizes: Sequence[tuple[int, int]]
    """(width, height) of the crops of each prompt"""
    resize: Mapping[tuple[int, int], tuple[int, int]]
    """limits of `Crop.side` for each of these sizes"""
    flip: float

    def __len__(self) -> int:
        return len(self.prompts)

    def example(self, i: int, rng: np.random.Generator, step: int) -> Example:
        pair, size = choose(self.prompts[i], rng), self.sizes[i]
        return self._crop(pair, Crop.draw(rng, self.resize[size], self.flip), size)

    def plain(self, i: int) -> Example:
        """The first pair of prompt i, centre crop, not mirrored."""
        return self._crop(self.prompts[i][0], Crop(side=min(self.sizes[i]), left=0.5, top=0.5), self.sizes[i])

    def _crop(self, pair: int, crop: Crop, size: tuple[int, int]) -> Example:
        text = self.instructions[pair]
        if text is None:
            text = self.edits.text(pair).instruction  # raises what is wrong with it
        return Example(text=text, pixels=crop(*self.edits.pictures(pair), size))


@dataclass(frozen=True, kw_only=True)
class LatentDataset:
    """The `prompts` of a precomputed set, each time in one of its precomputed crops."""

    latents: Latents
    prompts: Prompts
    states: bool = False
    """also read the states of the texts"""

    @property
    def instructions(self) -> Sequence[str | None]:
        """Of every pair of the set."""
        return self.latents.instructions

    def __len__(self) -> int:
        return len(self.prompts)

    def example(self, i: int, rng: np.random.Generator, step: int) -> Example:
        pair = choose(self.prompts[i], rng)
        return self._variant(pair, int(rng.integers(self.latents.variants)))

    def plain(self, i: int) -> Example:
        """The first pair of prompt i, its first crop, not mirrored."""
        return self._variant(self.prompts[i][0], 0)

    def _variant(self, pair: int, variant: int) -> Example:
        states = self.latents.read_states(pair) if self.states else None
        return Example(text=self.latents.instructions[pair], latents=self.latents.read(pair, variant), states=states)


def choose(pairs: Sequence[int], rng: np.random.Generator) -> int:
    """One of a prompt's pairs."""
    return pairs[0] if len(pairs) == 1 else pairs[int(rng.integers(len(pairs)))]


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Several sets, drawn from in proportion to their weights, each shuffled in epochs of its own."""

    sets: Sequence[ExampleSet]
    weights: Sequence[float]
    seed: int
    skip_broken: bool = False

    def example(self, number: int, rng: np.random.Generator, step: int) -> tuple[Example, list[str]]:
        """Item `number` of the run, and the errors of broken items that it replaces."""
        which, n = set_of_item(number, self.weights)
        size = len(self.sets[which])
        order = (shuffled_index(self.seed, which, at, size) for at in range(n, n + 2 * size))  # has a whole epoch
        return read_first(self.sets[which], order, rng, step, self.skip_broken)


def read_first(
    chosen: ExampleSet, order: Iterable[int], rng: np.random.Generator, step: int, skip_broken: bool
) -> tuple[Example, list[str]]:
    """The first item of this order; with skip_broken the first that can be read, and the errors of those before it."""
    broken: list[str] = []
    for i in order:
        try:
            return chosen.example(i, rng, step), broken
        except ValueError as error:
            if not skip_broken:
                raise ValueError(f"{error}; --skip-broken uses the next pair instead") from None
            broken.append(str(error))
    raise ValueError(f"none of the {len(set(broken))} pairs can be read; the last: {broken[-1]}")
