"""`--dry-run`: what a training would take, without training."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .batches import batches
from .memory import told
from .ranks import Ranks
from .recipe import make_stage

SECONDS = 10.0
"""for which batches are drawn, after the first"""


def rehearse(
    name: str, config: Any, out: Path, init_from: Sequence[str | Path], ranks: Ranks
) -> Iterator[str]:
    """Lines: the memory by what takes it, and pictures a second of the loader alone."""
    stage = make_stage(name, config, out, init_from, ranks.device)
    c, parts = config.train, ranks.rows(config.train.batch_size, config.train.micro_batch)
    yield told(stage, ranks)
    drawn = batches(stage.batch, range(c.steps), parts, c.workers, pin=ranks.device.type == "cuda")
    next(drawn)
    started, pictures = time.perf_counter(), 0
    for i, _ in enumerate(drawn, 1):
        pictures += len(parts[i % len(parts)])
        if time.perf_counter() - started > SECONDS:
            break
    seconds = time.perf_counter() - started
    yield f"the loader alone ({c.workers} workers): {pictures / seconds:,.1f} pictures/s"
