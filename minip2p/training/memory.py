"""How much memory a training takes: an estimate before the first step, and the peak that was seen."""

import copy
import resource
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from .ranks import Ranks


def peak(device: torch.device) -> int:
    """Bytes: of a GPU, the most that PyTorch had of it; else the most that this process had of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _of_this_process("VmHWM")


def estimate(stage: Any, ranks: Ranks) -> dict[str, int]:
    """Bytes of the device's memory by what takes them, at the fullest moment of a step.

    The stage rehearses a step with tensors that have shapes and no memory, and what is kept for the way back is counted.
    """
    c, cpu = stage.config.train, ranks.device.type == "cpu"
    over = ranks.world if ranks.shard else 1
    trained = sum(w.numel() * w.element_size() for w in stage.module.parameters() if w.requires_grad)
    everything = {id(w): w.numel() * w.element_size() for each in stage.networks for w in each.parameters()}
    kept, largest = activations(stage, len(ranks.rows(c.batch_size, c.micro_batch)[0]), ranks.device)
    return {
        "weights": sum(everything.values()) // over,
        "gradients": trained // over,
        "optimiser": 2 * trained // over,
        "average": trained // over if cpu or not c.ema_on_cpu else 0,
        "activations": kept + 2 * largest,
    } | ({"Python, libraries and data": _of_this_process("VmRSS") - sum(everything.values())} if cpu else {})  # fmt: skip


def activations(stage: Any, pictures: int, device: torch.device) -> tuple[int, int]:
    """Bytes that the way back needs of the way there, and of the largest tensor among them."""
    c = stage.config.train
    half = c.precision == "bf16" or c.precision == "auto" and device.type == "cuda"
    sizes: dict[int, int] = {}
    with FakeTensorMode():
        module = _faked(stage.module)
        own = {w.untyped_storage()._cdata for w in module.parameters()}

        def note(x: Tensor) -> Tensor:
            storage = x.untyped_storage()
            if storage._cdata not in own:
                sizes[storage._cdata] = storage.nbytes()
                held.append(x)  # so that no other storage gets this number
            return x

        held: list[Tensor] = []
        with saved_tensors_hooks(note, lambda x: x), torch.autocast("cpu", torch.bfloat16, enabled=half):
            stage.rehearse(module, pictures)
    return sum(sizes.values()), max(sizes.values(), default=0)


def _faked(module: nn.Module) -> nn.Module:
    """A copy whose weights have shapes and no memory. Called where tensors are such."""
    weights: dict[int, Tensor] = {
        id(w): nn.Parameter(torch.empty(w.shape, dtype=w.dtype), w.requires_grad) for w in module.parameters()
    }
    return copy.deepcopy(module, weights | {id(b): torch.empty(b.shape, dtype=b.dtype) for b in module.buffers()})


def _of_this_process(word: str) -> int:
    """Bytes of the machine's memory: VmHWM the most that it had, VmRSS what it has now; without Linux the most, for both.

    Not getrusage on Linux: there it counts what started the process, too.
    """
    try:
        with open("/proc/self/status") as file:
            return 1024 * int(next(line for line in file if line.startswith(word)).split()[1])
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def told(stage: Any, ranks: Ranks) -> str:
    """The estimate as a line; of a stage that cannot tell, what its weights take."""
    if not hasattr(stage, "rehearse"):
        trained = sum(w.numel() * w.element_size() for w in stage.module.parameters() if w.requires_grad)
        return f"weights, gradients, average and optimiser: {5 * trained / 2**30:.2f} GiB; activations come on top"
    parts = estimate(stage, ranks)
    listed = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in parts.items())
    return f"memory: about {sum(parts.values()) / 2**30:.2f} GiB a process ({listed})"
