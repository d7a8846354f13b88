"""Batches in the order of the training, drawn by this process or by workers beside it."""

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset

Draw = Callable[[int, range], Any]
"""(step, rows) -> the batch of these rows"""


def batches(draw: Draw, steps: Sequence[int], parts: Sequence[range], workers: int = 0, pin: bool = False) -> Iterator[Any]:
    """Each step's parts, one after the other. Raises, in its turn, what drawing one raised."""
    turns = [(step, rows) for step in steps for rows in parts] if workers else ((s, rows) for s in steps for rows in parts)
    if not workers:
        for step, rows in turns:
            yield draw(step, rows)
        return
    loader = DataLoader(
        _Drawn(draw), batch_size=None, sampler=turns, num_workers=workers, prefetch_factor=4, pin_memory=pin,
        worker_init_fn=_deaf,
    )  # fmt: skip
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        yield batch


class _Drawn(Dataset):
    """What a worker asks."""

    def __init__(self, draw: Draw):
        self.draw = draw

    def __getitem__(self, turn: tuple[int, range]) -> Any:
        try:
            return self.draw(*turn)
        except (ValueError, OSError) as error:  # on its way it would become another, with a traceback for its text
            return error


def _deaf(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal: the training decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
