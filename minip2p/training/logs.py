"""A run's figures: added up on the device while it trains, and written to log.jsonl and for TensorBoard."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.mapped import replace_file
from .ranks import Ranks


class Meter:
    """Means since the last reading. Adding never waits for the device; reading does, once."""

    def __init__(self):
        self.sums: dict[str, Tensor] = {}
        self.broken: dict[str, None] = {}

    def add(self, figures: dict[str, Tensor], pictures: int, broken: Iterable[str] = ()) -> None:
        """Figures of so many pictures: a number, or (sum, count) (2,)."""
        for name, figure in figures.items():
            figure = figure.detach().double() if figure.device.type == "cpu" else figure.detach().float()
            if figure.dim() == 0:
                figure = torch.stack([figure * pictures, torch.full_like(figure, pictures)])
            self.sums[name] = self.sums[name] + figure if name in self.sums else figure
        self.broken |= dict.fromkeys(broken)

    def read(self, ranks: Ranks) -> tuple[dict[str, float], list[str]]:
        """The means over all processes, those of no picture left out, and what was broken here; then all is forgotten."""
        names = sorted(self.sums)
        sums = ranks.sum(torch.stack([self.sums[name].cpu().double() for name in names]))
        figures = {name: float(total / n) for name, (total, n) in zip(names, sums, strict=True) if n > 0}
        broken = list(self.broken)
        self.__init__()
        return figures, broken


class Logs:
    """The files: lines of steps after `step`, which are made again, are dropped. Only the first process writes."""

    def __init__(self, out: Path, step: int, writes: bool):
        self.out, self.step, self.writes = out, step, writes
        self.board: Any = None

    def __enter__(self) -> "Logs":
        self.since = time.perf_counter()
        if self.writes:
            path = self.out / "log.jsonl"
            lines = path.read_text().splitlines() if path.exists() else []
            kept = [line for line in lines if json.loads(line)["step"] <= self.step]
            replace_file(path, lambda p: p.write_text("".join(f"{line}\n" for line in kept)))
            self.file = open(path, "a")
            self.board = _board(self.out, self.step)
        return self

    def __exit__(self, *raised) -> None:
        if self.writes:
            self.file.close()
            if self.board is not None:
                self.board.close()

    def write(
        self, step: int, batch_size: int, figures: dict[str, float], broken: Iterable[str] = ()
    ) -> dict[str, float]:
        """One line; with "loss" among the figures also how fast the pictures went since the last such line."""
        line: dict[str, Any] = {"step": step, "pictures": step * batch_size} | figures
        if "loss" in figures:
            now = time.perf_counter()
            line["pictures_per_s"] = (step - self.step) * batch_size / (now - self.since)
            self.step, self.since = step, now
        if self.writes:
            print(json.dumps(line | ({"broken": list(broken)} if broken else {})), file=self.file, flush=True)
            if self.board is not None:
                for name, value in line.items():
                    self.board.add_scalar(name, value, step)
        return line


def _board(out: Path, step: int):
    """TensorBoard's writer where the `log` extra is installed, else None."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "events"), purge_step=step + 1)
