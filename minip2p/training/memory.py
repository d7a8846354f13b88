"""What a training takes, before it runs: an estimate of its memory, and the speed of its data (`--dry-run`)."""

import copy
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from .data import load_batches
from .logs import process_memory
from .ranks import Ranks

SECONDS = 10.0
"""of loading batches in a dry run"""


def describe_memory(stage: Any, ranks: Ranks) -> str:
    """The estimate as a line; for stages other than denoisers, without activations."""
    trained = sum(w.numel() * w.element_size() for w in stage.module.parameters() if w.requires_grad)
    if not hasattr(stage, "pipe"):
        return f"memory: {5 * trained / 2**30:.2f} GiB for weights, gradients, average and optimiser, plus activations"
    parts = estimate_memory(stage, trained, ranks)
    listed = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in parts.items())
    return f"memory: about {sum(parts.values()) / 2**30:.2f} GiB per process ({listed})"


def estimate_memory(stage: Any, trained: int, ranks: Ranks) -> dict[str, int]:
    """Bytes of the device's memory at the peak of a step, by what takes them. trained: bytes of trained weights."""
    c, on_cpu = stage.config.train, ranks.device.type == "cpu"
    shards = ranks.world if ranks.shard else 1
    weights = {id(w): w.numel() * w.element_size() for each in stage.pipe.parts.values() for w in each.parameters()}
    stored, largest = activations(stage, len(ranks.rows(c.batch_size, c.micro_batch)[0]), ranks.device)
    sizes = {
        "weights": sum(weights.values()) // shards,
        "gradients": trained // shards,
        "optimiser": 2 * trained // shards,
        "average": trained // shards if on_cpu or not c.ema_on_cpu else 0,
        "activations": stored + 2 * largest,
    }
    if on_cpu:
        sizes["Python, libraries and data"] = process_memory("VmRSS") - sum(weights.values())
    return sizes


def activations(stage: Any, items: int, device: torch.device) -> tuple[int, int]:
    """Bytes of all tensors that the backward pass needs, and of the largest, from a step on tensors without memory."""
    c = stage.config.train
    half = c.precision == "bf16" or c.precision == "auto" and device.type == "cuda"
    sizes: dict[int, int] = {}
    held: list[Tensor] = []
    with FakeTensorMode():
        module = fake_copy(stage.module)
        own = {w.untyped_storage()._cdata for w in module.parameters()}

        def note(x: Tensor) -> Tensor:
            storage = x.untyped_storage()
            if storage._cdata not in own:
                sizes[storage._cdata] = storage.nbytes()
                held.append(x)  # so that no other storage gets this number
            return x

        with saved_tensors_hooks(note, lambda x: x), torch.autocast("cpu", torch.bfloat16, enabled=half):
            fake_loss(stage, module, items)
    return sum(sizes.values()), max(sizes.values(), default=0)


def fake_loss(stage: Any, module: nn.ModuleDict, n: int) -> Tensor:
    """A loss of n items of zeros through a denoiser's trained networks."""
    c = stage.pipe.config
    text = torch.zeros(n, c.text.max_length, c.text.width)
    if "text" in module:
        text = module["text"](torch.zeros(n, c.text.max_length, dtype=torch.long))
    z = torch.zeros(n, c.denoiser_config.in_channels, *stage.data.latent_shape[1:])
    return module["unet"](z, torch.zeros(n), text).square().mean()


def fake_copy(module: nn.Module) -> nn.Module:
    """A copy whose weights have shapes and no memory. For use within FakeTensorMode."""
    weights: dict[int, Tensor] = {
        id(w): nn.Parameter(torch.empty(w.shape, dtype=w.dtype), w.requires_grad) for w in module.parameters()
    }
    return copy.deepcopy(module, weights | {id(b): torch.empty(b.shape, dtype=b.dtype) for b in module.buffers()})


def dry_run(stage: Any, ranks: Ranks) -> Iterator[str]:
    """Lines: the memory that training would take, and the speed of the data loader alone."""
    c, parts = stage.config.train, ranks.rows(stage.config.train.batch_size, stage.config.train.micro_batch)
    yield describe_memory(stage, ranks)
    batches = load_batches(stage.data, range(c.steps), parts, c.workers, pin=ranks.device.type == "cuda")
    next(batches)  # starts the workers
    started, items = time.perf_counter(), 0
    for i, _ in enumerate(batches, 1):
        items += len(parts[i % len(parts)])
        if time.perf_counter() - started > SECONDS:
            break
    seconds = time.perf_counter() - started
    yield f"data loader alone ({c.workers} workers): {items / seconds:,.1f} items/s"
