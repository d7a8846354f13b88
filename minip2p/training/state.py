"""RUN/state: all that a run needs to go on as if it had never stopped. The last few states, each whole or not there."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoints.mapped import save_torch
from .ema import EMA
from .ranks import Ranks, spread_like, whole


def newest(out: Path) -> Path | None:
    """The last state of a run, or None."""
    return max((out / "state").glob("[0-9]*.pt"), default=None, key=lambda path: int(path.stem))


def save(
    out: Path, step: int, batch_size: int, model: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer, keep: int,
    ranks: Ranks,
) -> None:
    """Write the state after `step` steps; of the older ones the last keep - 1 stay.

    All that is drawn at random is drawn from the seed and a picture's number, so there are no generators to be kept.
    """
    state = {
        "step": step, "pictures": step * batch_size, "model": whole(model.state_dict()),
        "ema": whole(dict(zip(ema.names, ema.averages, strict=True))), "updates": ema.updates,
        "optimizer": whole(optimizer.state_dict()),
    }  # fmt: skip
    if ranks.first:
        (out / "state").mkdir(exist_ok=True)
        save_torch(state, out / "state" / f"{step:08d}.pt")
        for path in sorted((out / "state").glob("[0-9]*.pt"))[:-keep]:
            path.unlink()
    ranks.wait()


def restore(out: Path, batch_size: int, model: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer) -> int:
    """Go back to the newest state; how many steps it is after. Raises ValueError where there is none, or another's."""
    path = newest(out)
    if path is None:
        raise ValueError(f"{out}: no state there to resume from; to start from weights alone, use --init-from")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever a damaged archive makes it raise
        raise ValueError(f"{path} is damaged ({type(error).__name__}); remove it to go on with the one before") from None
    if state["pictures"] != state["step"] * batch_size:
        done = state["pictures"] // max(1, state["step"])
        raise ValueError(f"{path} is of batches of {done} pictures, not {batch_size}: --init-from starts anew from weights")
    with torch.no_grad():
        _copy(state["model"], model.state_dict(), path)
        _copy(state["ema"], dict(zip(ema.names, ema.averages, strict=True)), path)
    ema.updates = state["updates"]
    optimizer.load_state_dict(_as_sharded(state["optimizer"], optimizer))
    return state["step"]


def _copy(kept: dict[str, torch.Tensor], into: dict[str, torch.Tensor], path: Path) -> None:
    if kept.keys() != into.keys() or any(kept[name].shape != into[name].shape for name in into):
        raise ValueError(f"{path} is of another model than the run's config.json asks for")
    for name, tensor in into.items():
        tensor.copy_(spread_like(kept[name], tensor))


def _as_sharded(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's state, its tensors sharded as the weights are that they belong to."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    of = {
        i: {name: spread_like(x, weights[i]) if torch.is_tensor(x) and x.shape == weights[i].shape else x
            for name, x in values.items()}
        for i, values in state["state"].items()
    }  # fmt: skip
    return state | {"state": of}
