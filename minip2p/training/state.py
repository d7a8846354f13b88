"""RUN/state: all that a run needs to continue to the same bits. The newest states are kept; each is written whole."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.files import write_torch
from .ema import EMA
from .fsdp import gather_tensors, shard_like
from .ranks import Ranks


def newest(out: Path) -> Path | None:
    """The last state of a run, or None."""
    return max((out / "state").glob("[0-9]*.pt"), default=None, key=lambda path: int(path.stem))


def save(
    out: Path,
    step: int,
    batch_size: int,
    model: nn.Module,
    ema: EMA,
    optimizer: torch.optim.Optimizer,
    keep: int,
    ranks: Ranks,
) -> None:
    """Write the state after `step` steps, and remove all but the newest `keep`. Random generators have no state."""
    state = {
        "step": step,
        "pictures": step * batch_size,
        "model": gather_tensors(model.state_dict()),
        "ema": gather_tensors(dict(zip(ema.names, ema.averages, strict=True))),
        "updates": ema.updates,
        "optimizer": gather_tensors(optimizer.state_dict()),
    }
    if ranks.first:
        (out / "state").mkdir(exist_ok=True)
        write_torch(out / "state" / f"{step:08d}.pt", state)
        for path in sorted((out / "state").glob("[0-9]*.pt"))[:-keep]:
            path.unlink()
    ranks.barrier()


def restore(out: Path, batch_size: int, model: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer) -> int:
    """Load the newest state (there must be one) and return the step after which it was saved.

    ValueError for a damaged state, or that of another model.
    """
    path = newest(out)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged archive can raise anything
        raise ValueError(f"{path} is damaged ({type(error).__name__}); remove it to resume the one before") from None
    if state["pictures"] != state["step"] * batch_size:
        size = state["pictures"] // max(1, state["step"])
        raise ValueError(f"{path} was made with train.batch_size={size}, not {batch_size}: use --init-from instead")
    with torch.no_grad():
        _copy(state["model"], model.state_dict(), path)
        _copy(state["ema"], dict(zip(ema.names, ema.averages, strict=True)), path)
    ema.updates = state["updates"]
    optimizer.load_state_dict(_like_weights(state["optimizer"], optimizer))
    return state["step"]


def _copy(saved: dict[str, Tensor], into: dict[str, Tensor], path: Path) -> None:
    if saved.keys() != into.keys() or any(saved[name].shape != into[name].shape for name in into):
        raise ValueError(f"{path} is of another model than that of config.json")
    for name, tensor in into.items():
        tensor.copy_(_like(saved[name], tensor))


def _like_weights(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's state with tensors laid out as the weights that they belong to."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    return state | {
        "state": {
            i: {
                name: _like(x, weights[i]) if torch.is_tensor(x) and x.shape == weights[i].shape else x
                for name, x in values.items()
            }
            for i, values in state["state"].items()
        }
    }


def _like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor on the device of `like`, in its memory layout, and sharded if it is."""
    if hasattr(like, "device_mesh"):
        return shard_like(value, like)
    return torch.empty_like(like, dtype=value.dtype).copy_(value)  # the fused optimiser needs the weights' layout
