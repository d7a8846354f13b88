"""How a run computes: the words of `TrainConfig` that its config leaves open, by what the device can do."""

import os
from dataclasses import replace
from typing import Any

from torch.utils._triton import has_triton

from ..cores import free_cores
from .config import TrainConfig
from .memory import largest_micro_batch
from .precision import computes_in_half
from .ranks import Ranks

LONG = 1000
"""steps from which on compiling pays"""
ON_CPU = 32
"""items of a micro-batch on a CPU, where it is left open"""
MOST_WORKERS = 16


def plan(stage: Any, ranks: Ranks) -> tuple[TrainConfig, list[str]]:
    """The settings with every word decided, and lines for the log: what a GPU does, and why it does not do more."""
    c, gpu, denoises = stage.config.train, ranks.device.type == "cuda", hasattr(stage, "inputs")
    buckets = getattr(stage.config, "buckets", False)  # a kernel or a graph for each of their sizes would not pay
    reasons = {
        "compile": None if not gpu or has_triton() else "this system has no Triton",
        "graph": no_graph(gpu, denoises, ranks, buckets),
    }
    usual = {"compile": gpu and denoises and c.steps >= LONG and not buckets, "graph": gpu and denoises and not buckets}
    notes, decided = [], {}
    for word, reason in reasons.items():
        asked = getattr(c, word)
        decided[word] = (usual[word] if asked is None else asked) and reason is None
        if reason is not None and (usual[word] if asked is None else asked):
            notes.append(f"train.{word} is off: {reason}")
    half = "bf16" if computes_in_half(c.precision, ranks.device) else "fp32"
    mine = max(1, free_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))  # of those that train together here
    workers = (min(MOST_WORKERS, mine) if gpu else 0) if c.workers is None else c.workers
    c = replace(c, precision=half, workers=workers, **decided)
    if c.micro_batch == "auto":
        c = replace(c, micro_batch=largest_micro_batch(stage, c, ranks) if gpu else ON_CPU)
    if gpu:
        words = {"precision": half, **decided, "micro_batch": c.micro_batch, "workers": workers}
        notes.append(" ".join(f"train.{name}={value}" for name, value in words.items()))
    return c, notes


def no_graph(gpu: bool, denoises: bool, ranks: Ranks, buckets: bool = False) -> str | None:
    """Why a step cannot be a CUDA graph; None where it can."""
    if not gpu:
        return "only GPUs have CUDA graphs"
    if not denoises:
        return "only a denoiser's batches all have the same shapes"
    if buckets:
        return "the batches of buckets have several shapes"
    if ranks.world > 1 or ranks.shard:
        return "several processes exchange gradients within a step"
    return None
