"""What a training takes, before it runs: an estimate of its memory, and the speed of its data (`--dry-run`)."""

import contextlib
import copy
import time
from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from ..data.sizes import sides
from .config import TrainConfig
from .data import load_batches
from .diffusion import ENCODED
from .logs import process_memory
from .precision import in_products_only
from .ranks import Ranks

HALF = (torch.bfloat16, torch.float16)
MEASURED = 2
"""items of the step without memory; activations grow in proportion"""
ENCODER_COPIES = 7
"""seen on an H100 (28.3 GiB for 128 pictures of 256 px): a residual block's input and skip, what is normalised and what
is convolved, each before and after a change of layout, and the convolution's workspace"""
ROOM = 0.85
"""of a GPU's memory that the estimate may fill: it may be 20 % too low, for what is small beside the activations"""
SECONDS = 10.0
"""of loading batches in a dry run"""


def describe_memory(stage: Any, c: TrainConfig, ranks: Ranks) -> str:
    """The estimate as a line; for stages other than denoisers, without activations. c: with every word decided."""
    if not hasattr(stage, "pipe"):
        trained = sum(w.numel() * w.element_size() for w in stage.module.parameters() if w.requires_grad)
        return f"memory: {5 * trained / 2**30:.2f} GiB for weights, gradients, average and optimiser, plus activations"
    parts = estimate_memory(stage, c, ranks, len(ranks.rows(c.batch_size, c.micro_batch)[0]))
    listed = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in parts.items())
    return f"memory: about {sum(parts.values()) / 2**30:.2f} GiB per process ({listed})"


def estimate_memory(stage: Any, c: TrainConfig, ranks: Ranks, items: int) -> dict[str, int]:
    """Bytes of the device's memory at the peak of a step with micro-batches of so many items, by what takes them."""
    sizes = lasting(stage, c, ranks)
    stored, largest = activations(stage, c, ranks.device.type)
    sizes["activations"] = max(items * (stored + 2 * largest), encoding(stage, items))
    if ranks.device.type == "cpu":
        sizes["Python, libraries and data"] = process_memory("VmRSS") - sizes["weights"]
    return sizes


def lasting(stage: Any, c: TrainConfig, ranks: Ranks) -> dict[str, int]:
    """Bytes of what stays in the device's memory from step to step."""
    trained = sum(w.numel() * w.element_size() for w in stage.module.parameters() if w.requires_grad)
    on_cpu, shards = ranks.device.type == "cpu", ranks.world if ranks.shard else 1
    absent = {"text"} if stage.data.null_states is not None and not on_cpu else set()
    networks = [network for part, network in stage.pipe.parts.items() if part not in absent]
    weights = {id(w): w.numel() * w.element_size() for each in networks for w in each.parameters()}
    products = in_products_only(stage.module) if c.precision == "bf16" else set()
    return {
        "weights": sum(weights.values()) // shards,
        "weights in bfloat16": sum(2 * w.numel() for w in stage.module.parameters() if id(w) in products) // shards,
        "gradients": trained // shards,
        "optimiser": 2 * trained // shards,
        "average": trained // shards if on_cpu or not c.ema_on_cpu else 0,
    }


def largest_micro_batch(stage: Any, c: TrainConfig, ranks: Ranks) -> int:
    """The largest power of two for which the estimate leaves room in the memory of every process' GPU."""
    room = int(ROOM * torch.cuda.mem_get_info(ranks.device)[1]) - sum(lasting(stage, c, ranks).values())
    stored, largest = activations(stage, c, ranks.device.type)
    most = min(room // (stored + 2 * largest), c.batch_size // ranks.world)
    return 2 ** (max(1, ranks.least(most)).bit_length() - 1)


def encoding(stage: Any, items: int) -> int:
    """Bytes of the autoencoder's activations while it encodes a micro-batch of pairs; 0 where it has latents.

    Kernel by kernel, `ENCODER_COPIES` tensors of its first width are there at once.
    """
    if not stage.reads_pictures:
        return 0
    pictures, size = min(ENCODED, 2 * items), 4 if stage.config.vae_precision == "fp32" else 2
    return ENCODER_COPIES * pictures * stage.pipe.config.vae.widths[0] * prod(sides(stage.config.size)) * size


def activations(stage: Any, c: TrainConfig, kind: str) -> tuple[int, int]:
    """Bytes an item of all tensors that the backward pass needs, and of the largest; kind: "cpu" or "cuda".

    A compiled network recomputes norms and activations: in half precision, what it saves is what products read.
    """
    kept = [size for dtype, size in saved_tensors(stage, kind, c.precision == "bf16") if not c.compile or dtype in HALF]
    kept = kept or [0]
    return sum(kept) // MEASURED, max(kept) // MEASURED


def saved_tensors(stage: Any, kind: str, half: bool) -> list[tuple[torch.dtype, int]]:
    """(dtype, bytes) of each tensor that the backward pass of `MEASURED` items needs beside the weights, from a step
    without memory, with the device's own rules of precision. It needs no such device."""
    sizes: dict[int, tuple[torch.dtype, int]] = {}
    held: list[Tensor] = []
    with FakeTensorMode():
        module = fake_copy(stage.module, kind, half)
        own = {w.untyped_storage()._cdata for w in module.parameters()}

        def note(x: Tensor) -> Tensor:
            storage = x.untyped_storage()
            if storage._cdata not in own:
                sizes[storage._cdata] = x.dtype, storage.nbytes()
                held.append(x)  # so that no other storage gets this number
            return x

        fused = FusedAttention() if kind == "cuda" else contextlib.nullcontext()
        with saved_tensors_hooks(note, lambda x: x), casting(kind, half), fused:
            fake_loss(stage, module, MEASURED, kind)
    return list(sizes.values())


def fake_loss(stage: Any, module: nn.ModuleDict, n: int, kind: str) -> Tensor:
    """A loss of n items of zeros through a denoiser's trained networks."""
    c = stage.pipe.config
    text = torch.zeros(n, c.text.max_length, c.text.width, device=kind)
    if "text" in module:
        text = module["text"](torch.zeros(n, c.text.max_length, dtype=torch.long, device=kind))
    z = torch.zeros(n, c.denoiser_config.in_channels, *stage.data.latent_shape[1:], device=kind)
    return module["unet"](z, torch.zeros(n, device=kind), text).float().square().mean()


def fake_copy(module: nn.Module, kind: str, half: bool) -> nn.Module:
    """A copy whose weights have shapes and no memory. For use within FakeTensorMode. half: as `ComputeWeights` has."""
    cast = in_products_only(module) if half else set()
    weights: dict[int, Any] = {}
    for w in module.parameters():
        dtype = torch.bfloat16 if id(w) in cast else w.dtype
        weights[id(w)] = nn.Parameter(torch.empty(w.shape, dtype=dtype, device=kind), w.requires_grad)
    buffers = {id(b): torch.empty(b.shape, dtype=b.dtype, device=kind) for b in module.buffers()}
    return copy.deepcopy(module, weights | buffers)


@contextlib.contextmanager
def casting(kind: str, half: bool) -> Iterator[None]:
    """Autocast with the rules of a kind of device, whether or not there is one."""
    torch.set_autocast_enabled(kind, half)
    torch.set_autocast_dtype(kind, torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_enabled(kind, False)
        torch.clear_autocast_cache()


class FusedAttention(TorchFunctionMode):
    """Within, attention saves what the fused kernels of a GPU do, which a step without memory would not choose."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is not scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        q, k, v = args[:3]
        dtype = torch.bfloat16 if torch.is_autocast_enabled(q.device.type) else q.dtype
        return SavedAttention.apply(q.to(dtype), k.to(dtype), v.to(dtype))


class SavedAttention(torch.autograd.Function):
    """Attention as its fused kernels keep it for the backward pass: inputs, output, a number a row."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return out


def dry_run(stage: Any, c: TrainConfig, ranks: Ranks) -> Iterator[str]:
    """Lines: the memory that training would take, and the speed of the data loader alone. c: every word decided."""
    parts = ranks.rows(c.batch_size, c.micro_batch)
    yield from getattr(stage, "notes", ())
    yield describe_memory(stage, c, ranks)
    batches = load_batches(stage.data, range(c.steps), parts, c.workers, pin=ranks.device.type == "cuda")
    next(batches)  # starts the workers
    started, items = time.perf_counter(), 0
    for i, _ in enumerate(batches, 1):
        items += len(parts[i % len(parts)])
        if time.perf_counter() - started > SECONDS:
            break
    seconds = time.perf_counter() - started
    yield f"data loader alone ({c.workers} workers): {items / seconds:,.1f} items/s"
