"""The training loop, one for every stage.

A stage says what is trained, on which batch, and by which loss. Batch n is a pure function of (seed, n), so a run that
was stopped continues with the same bits as one that never was: its state is the weights, their average, the optimiser
and the step, and nothing else.
"""

import contextlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..checkpoints.mapped import replace_file
from ..config import to_dict
from . import state
from .batches import batches
from .config import TrainConfig
from .ema import EMA
from .logs import Logs, Meter
from .memory import peak, told
from .ranks import Ranks, twin_of
from .stops import Stopped, stopping

SHOWN = ("loss", "pictures_per_s", "held_out_loss", "psnr", "right", "accuracy")
"""the figures of a log that the progress bar has room for"""


class Stage(Protocol):
    """What is trained. `config` is the stage's whole config, with the loop's part at `.train`."""

    config: Any
    module: nn.Module
    """all parameters that are trained"""

    def batch(self, step: int, rows: range | None = None) -> Any:
        """The batch of a step, or these rows of it: a function of them and the config's seed alone."""

    def loss(self, module: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The batch's mean loss, and figures for the log: numbers, or (sum, count) (2,) of which the mean is told."""

    def export(self, module: nn.Module, path: Path, done: dict[str, int] | None = None) -> None:
        """Write `module` (the averaged weights) as a checkpoint that `minip2p.load` or the next stage reads."""

    def preview(self, module: nn.Module, path: Path) -> dict[str, float]:
        """Draw what `module` does, as a PNG, and measure it."""


@dataclass(frozen=True)
class Log:
    """What a step reports, every `log_every` steps; before the first, where it begins and what the training takes."""

    step: int
    figures: dict[str, float]
    said: tuple[str, ...] = field(default=())
    """what else the user should know: a line each"""


class Loss(nn.Module):
    """A stage's loss as a module that holds what is trained: what DistributedDataParallel wants."""

    def __init__(self, stage: Stage):
        super().__init__()
        self.stage, self.module = stage, stage.module

    def forward(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return self.stage.loss(self.module, batch)


def rate(config: TrainConfig, step: int) -> float:
    """The learning rate of a step, counted from 0: a linear rise, then constant or half a cosine down to 0."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.decay == "constant":
        return config.learning_rate
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def run(stage: Stage, out: Path, *, resume: bool = False, ranks: Ranks | None = None) -> Iterator[Log]:
    """Train to `config.train.steps`, yielding a Log now and then; all processes together.

    Leaves in `out`: config.json, log.jsonl (and TensorBoard's events where that is installed), state/ (all that `resume`
    needs), model.safetensors (the average) and samples/. SIGTERM and Ctrl-C end it after the step in work, with a state
    of that step, by raising `Stopped`.
    """
    ranks = ranks or Ranks()
    c: TrainConfig = stage.config.train
    _prepare(stage, out, ranks)

    torch.manual_seed(c.seed)
    model = stage.module.to(ranks.device).train()
    needs = told(stage, ranks) if ranks.first and hasattr(stage, "rehearse") else None
    twin = twin_of(model) if ranks.shard else None
    ranks.spread(model)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    ema = EMA(model, c.ema, c.ema_on_cpu)
    optimizer = torch.optim.AdamW(trained, lr=0.0, betas=tuple(c.betas), weight_decay=c.weight_decay, fused=True)
    first = state.restore(out, c.batch_size, model, ema, optimizer) if resume else 0
    if c.compile:
        for network in model.children():
            network.compile()
    loss_of = ranks.together(Loss(stage))
    kit = _Kit(stage, out, ranks, model, ema, optimizer, twin)

    yield Log(first, {}, (needs,) if needs else ())
    with Logs(out, first, ranks.first) as logs, stopping() as stops:
        meter, parts = Meter(), ranks.rows(c.batch_size, c.micro_batch)
        drawn = batches(stage.batch, range(first, c.steps), parts, c.workers, pin=ranks.device.type == "cuda")
        for step in range(first + 1, c.steps + 1):
            learning_rate = rate(c, step - 1)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.zero_grad(set_to_none=True)
            for i, rows in enumerate(parts):
                batch, share = next(drawn), len(rows) * ranks.world / c.batch_size
                with ranks.adding(loss_of, last=i + 1 == len(parts)):
                    with kit.autocast():
                        loss, figures = loss_of(batch)
                    (loss * share).backward()
                meter.add({"loss": loss.detach()} | figures, len(rows), getattr(batch, "broken", ()))
            norm = nn.utils.clip_grad_norm_(trained, c.clip)
            optimizer.step()
            ema.update()

            stopped = ranks.any(stops.asked)
            if step % c.log_every == 0 or step == c.steps:
                yield kit.log(logs, meter, step, {"grad_norm": float(state.whole(norm)), "lr": learning_rate})
            if step % c.save_every == 0 or step == c.steps or stopped:
                kit.save(step)
            if stopped and step < c.steps:
                raise Stopped(stops.signal, f"stopped after step {step}; --resume {out} goes on from there")
            if step % c.preview_every == 0 or step == c.steps:
                yield kit.preview(logs, step)


@dataclass
class _Kit:
    """A run's parts, and what is done with them now and then."""

    stage: Stage
    out: Path
    ranks: Ranks
    model: nn.Module
    ema: EMA
    optimizer: torch.optim.Optimizer
    twin: nn.Module | None

    def autocast(self):
        device, precision = self.ranks.device, self.stage.config.train.precision
        on = precision == "bf16" or precision == "auto" and device.type == "cuda"
        return torch.autocast(device.type, torch.bfloat16) if on else contextlib.nullcontext()

    def log(self, logs: Logs, meter: Meter, step: int, more: dict[str, float]) -> Log:
        figures, broken = meter.read(self.ranks)
        if not math.isfinite(figures["loss"]):
            raise FloatingPointError(f"the loss is {figures['loss']} at step {step}; the last state is in {self.out}")
        figures |= more | {"peak_memory_gib": round(peak(self.ranks.device) / 2**30, 3)}
        said = tuple(f"left out: {each}" for each in broken)
        return Log(step, logs.write(step, self.stage.config.train.batch_size, figures, broken), said)

    def save(self, step: int) -> None:
        """The model first: a state without its frozen networks cannot go on."""
        c = self.stage.config.train
        with self.ema.applied():
            self._export(step)
        state.save(self.out, step, c.batch_size, self.model, self.ema, self.optimizer, c.keep, self.ranks)

    def _export(self, step: int) -> None:
        module = self._plain()
        if self.ranks.first:
            done = {"steps": step, "pictures": step * self.stage.config.train.batch_size}
            self.stage.export(module, self.out / "model.safetensors", done)

    def _plain(self) -> nn.Module:
        """The model as one process has it alone; the same object unless it is sharded."""
        if self.twin is None:
            return self.model
        self.twin.load_state_dict(state.whole(self.model.state_dict()), assign=True)
        return self.twin.to(self.ranks.device)

    def preview(self, logs: Logs, step: int) -> Log:
        figures, begun = {}, time.perf_counter()
        with self.ema.applied():
            module = self._plain()
            if self.ranks.first:
                with torch.inference_mode():
                    figures = self.stage.preview(module.eval(), self.out / "samples" / f"{step:06d}.png")
            self.model.train()
        self.ranks.wait()
        logs.since += time.perf_counter() - begun  # it does not slow the training down
        return Log(step, logs.write(step, self.stage.config.train.batch_size, figures))


def progress(logs: Iterator[Log], steps: int, name: str, quiet: bool = False) -> None:
    """Run to the end, with a bar on stderr unless quiet."""
    shown: dict[str, str] = {}
    with tqdm(total=steps, desc=name, unit="step", dynamic_ncols=True, disable=quiet) as bar:
        for log in logs:
            if not log.figures:
                bar.initial = bar.n = log.step  # what an earlier run did takes no time of this one
            bar.update(log.step - bar.n)
            for line in log.said:
                bar.write(line)
            shown |= {name: f"{log.figures[name]:.4g}" for name in SHOWN if name in log.figures}
            bar.set_postfix(shown)


def _prepare(stage: Stage, out: Path, ranks: Ranks) -> None:
    """The run's folder, without what an earlier process left half written."""
    if ranks.first:
        for folder in (out, out / "state", out / "samples"):
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.glob(".*.part"):
                path.unlink()
        replace_file(out / "config.json", lambda p: p.write_text(json.dumps(to_dict(stage.config), indent=1)))
    ranks.wait()
