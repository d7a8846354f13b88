"""Work that several processes share: which part is this one's, and on which device."""

import os
from typing import Any


def share_of_work(shard: str | None, environment: Any = os.environ) -> tuple[int, int]:
    """(i, n), i from 0: of --shard, and within that of the rank that torchrun gives in the environment."""
    i, n = 0, 1
    if shard is not None:
        parts = shard.split("/")
        if len(parts) != 2 or not all(part.isdecimal() for part in parts) or not 1 <= int(parts[0]) <= int(parts[1]):
            raise ValueError(f"--shard {shard!r}: expected I/N, from 1/N to N/N, e.g. 1/8 ... 8/8")
        i, n = int(parts[0]) - 1, int(parts[1])
    if {"RANK", "WORLD_SIZE"} <= set(environment):
        rank, ranks = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        return i * ranks + rank, n * ranks
    return i, n


def device_of(word: str) -> str:
    """The device meant; under torchrun, "auto" is the GPU of this rank."""
    if word == "auto" and "LOCAL_RANK" in os.environ:
        import torch

        if torch.cuda.is_available():
            return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    return word
