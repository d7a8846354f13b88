"""A run's figures: averaged on the device between two logs, then written to log.jsonl and for TensorBoard."""

import json
import math
import resource
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import write_file
from .ranks import Ranks


class Meter:
    """Means of figures since the last line of the log. Adding never waits for the device; reading does, once."""

    def __init__(self):
        self.clear()

    def clear(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.broken: dict[str, None] = {}

    def add(self, figures: dict[str, Tensor], items: int, broken: Iterable[str] = ()) -> None:
        """Add figures of so many items: means (), or sums and counts (2,). They may be overwritten afterwards."""
        for name, figure in figures.items():
            figure = figure.detach().double() if figure.device.type == "cpu" else figure.detach().float()
            if figure.dim() == 0:
                figure = torch.stack([figure * items, torch.full_like(figure, items)])
            self.sums[name] = self.sums[name].to(figure) + figure if name in self.sums else figure.clone()
        self.broken |= dict.fromkeys(broken)

    def read(self, ranks: Ranks) -> tuple[dict[str, float], list[str]]:
        """The means over all ranks (without those of no items), and this rank's broken items. It starts again then."""
        sums = self.to_dict(ranks)["sums"]
        figures = {name: float(total / n) for name, (total, n) in sums.items() if n > 0}
        figures["peak_memory_gib"] = round(peak_memory(ranks.device) / 2**30, 3)
        broken = list(self.broken)
        self.clear()
        return figures, broken

    def to_dict(self, ranks: Ranks) -> dict[str, Any]:
        """Sums and counts over all ranks, float64 (2,) each, and this rank's broken items: for a run's state."""
        sums = {name: ranks.sum(self.sums[name].cpu().double()) for name in sorted(self.sums)}
        return {"sums": sums, "broken": list(self.broken)}

    def load(self, values: dict[str, Any]) -> None:
        """Go on from what `to_dict` gave."""
        self.sums, self.broken = dict(values.get("sums", {})), dict.fromkeys(values.get("broken", ()))


class Logs:
    """The files of a run's log. What is of later steps than `step` is removed: a resumed run writes it again."""

    def __init__(self, out: Path, step: int, writes: bool):
        """writes: False on all ranks but the first."""
        self.out, self.step, self.writes = out, step, writes
        self.board: Any = None

    def __enter__(self) -> "Logs":
        self.since = time.perf_counter()
        if self.writes:
            path = self.out / "log.jsonl"
            lines = path.read_text(errors="replace").splitlines() if path.exists() else []
            write_file(path, "".join(f"{line}\n" for line in lines if (step_of(line) or math.inf) <= self.step))
            for sample in (self.out / "samples").glob("[0-9]*.*"):
                if sample.stem.isdigit() and int(sample.stem) > self.step:
                    sample.unlink()
            self.file = open(path, "a")
            self.board = open_board(self.out, self.step)
        return self

    def __exit__(self, *raised) -> None:
        if self.writes:
            self.file.close()
            if self.board is not None:
                self.board.close()

    def write(
        self, step: int, batch_size: int, figures: dict[str, float], broken: Iterable[str] = ()
    ) -> dict[str, float]:
        """Write one line and return it. With "loss" among the figures, it has the speed since the last such line."""
        line: dict[str, Any] = {"step": step, "items": step * batch_size} | figures
        if "loss" in figures:
            now = time.perf_counter()
            line["items_per_s"] = (step - self.step) * batch_size / (now - self.since)
            self.step, self.since = step, now
        if self.writes:
            print(json.dumps(line | ({"broken": list(broken)} if broken else {})), file=self.file, flush=True)
            if self.board is not None:
                for name, value in line.items():
                    self.board.add_scalar(name, value, step)
        return line


def step_of(line: str) -> int | None:
    """The step of a line of the log; None for a line that was cut when the process was killed."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return None


def open_board(out: Path, step: int) -> Any:
    """TensorBoard's writer, or None where it is not installed (the extra `log`)."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "events"), purge_step=step + 1)


def peak_memory(device: torch.device) -> int:
    """Bytes: the most GPU memory that PyTorch has used; on a CPU, the most memory of this process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else process_memory("VmHWM")


def process_memory(field: str) -> int:
    """Bytes of this process' memory: "VmHWM" the most so far, "VmRSS" now. Outside of Linux, the most for both.

    Not getrusage on Linux, where it also counts the process that started this one.
    """
    try:
        with open("/proc/self/status") as file:
            return 1024 * int(next(line for line in file if line.startswith(field)).split()[1])
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
