"""RUN/state: all that a run needs to continue to the same bits. The newest states are kept; each is written whole."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.files import check_name, write_torch
from ..files import read_json
from .fsdp import gather_tensors, shard_like
from .logs import Meter
from .ranks import Ranks
from .step import EMA


def newest(out: Path) -> Path | None:
    """The last state of a run, or None."""
    return next(iter(saved(out)), None)


def saved(out: Path) -> list[Path]:
    """The states of a run, the last one first."""
    return sorted((out / "state").glob("[0-9]*.pt"), key=lambda path: int(path.stem), reverse=True)


def check_folder(out: Path, resume: bool) -> None:
    """Raise ValueError where there is no run to resume, or a run that would be overwritten."""
    if resume and not saved(out):
        raise ValueError(f"{out}: no state to resume from; to start from weights alone, use --init-from")
    if not resume and saved(out):
        raise ValueError(f"{out} holds a run already; --resume {out} continues it, another --out starts another")
    found = [
        out / name
        for name in ("config.json", "log.jsonl", "model.safetensors", "lora.safetensors")
        if (out / name).exists()
    ]
    if not resume and found and not _is_run(out / "config.json"):  # else it was killed before its first state
        raise ValueError(f"{found[0]} is of no run of minip2p, and would be written over; choose another --out")


def _is_run(config: Path) -> bool:
    """Whether a file is the config of a run."""
    try:
        return "train" in read_json(config)
    except ValueError:
        return False


def check_writable(out: Path) -> None:
    """Raise OSError that names the folder if no file can be written in it, ValueError where it has a name that weights
    cannot have: to know it before hours of work."""
    check_name(out)
    try:
        with NamedTemporaryFile(prefix=".", suffix=".part", dir=out):
            pass
    except OSError as error:
        raise OSError(error.errno, f"cannot be written: {(error.strerror or str(error)).lower()}", str(out)) from None


@dataclass(kw_only=True)
class State:
    """What changes in a run. Random generators have no state."""

    model: nn.Module
    ema: EMA
    optimizer: torch.optim.Optimizer
    meter: Meter
    """the figures since the last line of the log"""
    marks: dict[str, str]
    """what identifies the data and the frozen networks: name -> hash"""
    batch_size: int

    def save(self, out: Path, step: int, keep: int, ranks: Ranks) -> None:
        """Write the state after `step` steps; remove all but the newest `keep`, and those of later steps."""
        state = {
            "step": step,
            "pictures": step * self.batch_size,
            "model": gather_tensors(self.model.state_dict()),
            "ema": gather_tensors(dict(zip(self.ema.names, self.ema.averages, strict=True))),
            "updates": self.ema.updates,
            "optimizer": gather_tensors(self.optimizer.state_dict()),
            "meter": self.meter.to_dict(ranks),
            "marks": self.marks,
        }
        if ranks.first:
            (out / "state").mkdir(exist_ok=True)
            write_torch(out / "state" / f"{step:08d}.pt", state)
            paths = saved(out)
            kept = [path for path in paths if int(path.stem) <= step][:keep]
            for path in set(paths) - set(kept):
                path.unlink()
        ranks.barrier()

    def restore(self, out: Path, ranks: Ranks, accept_changes: bool = False) -> tuple[int, list[str]]:
        """Load the newest state that is not damaged: the step after which it was saved, and a note for each damaged
        one.

        Raises ValueError where there is none, for that of another model, and, unless `accept_changes`, where the run
        had other data or frozen networks.
        """
        notes: list[str] = []
        for path in saved(out):
            try:
                state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
                pictures, step = state["pictures"], state["step"]
                parts = state["model"], state["ema"], state["updates"], state["optimizer"]
                break
            except Exception as error:  # a damaged archive can raise anything
                notes.append(f"{path} is damaged ({type(error).__name__}); the state before it is used")
        else:
            raise ValueError(f"{out}: none of its {len(notes)} states can be read; --init-from starts from its weights")
        if pictures != step * self.batch_size:
            size = pictures // max(1, step)
            raise ValueError(
                f"{path} was made with train.batch_size={size}, not {self.batch_size}: use --init-from instead"
            )
        if not accept_changes:
            self._compare(path, state.get("marks", {}))
        model, ema, self.ema.updates, optimizer = parts
        with torch.no_grad():
            _copy(model, self.model.state_dict(), path)
            _copy(ema, dict(zip(self.ema.names, self.ema.averages, strict=True)), path)
        self.optimizer.load_state_dict(_like_weights(optimizer, self.optimizer))
        if ranks.first:
            self.meter.load(state.get("meter", {}))
        return step, notes

    def _compare(self, path: Path, before: dict[str, str]) -> None:
        for name, now in self.marks.items():
            if before.get(name) != now:
                raise ValueError(
                    f"{path}: the {name} was {before.get(name, 'not noted')}, and is now {now}; "
                    "--accept-changes continues all the same, --init-from starts another run"
                )

    def not_finite(self) -> str | None:
        """The name of a tensor with NaN or infinity among weights, averages and the optimiser's state; None without."""
        named = list(self._tensors())
        finite = torch.stack([tensor.isfinite().all().cpu() for _, tensor in named]).tolist()
        return next((name for (name, _), each in zip(named, finite, strict=True) if not each), None)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All floating tensors; of sharded ones this rank's part."""
        names = {id(weight): name for name, weight in self.model.named_parameters()}
        of_optimizer = [
            (f"the optimiser's {kind} of {names[id(weight)]}", x)
            for weight, values in self.optimizer.state.items()
            for kind, x in values.items()
        ]
        averages = [(f"the average of {name}", x) for name, x in zip(self.ema.names, self.ema.averages, strict=True)]
        for name, x in [*self.model.state_dict().items(), *averages, *of_optimizer]:
            if torch.is_tensor(x) and x.is_floating_point():
                yield name, x.to_local() if hasattr(x, "to_local") else x


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
