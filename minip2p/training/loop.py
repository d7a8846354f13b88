"""The training loop, the same for every stage.

Batch n is a function of (seed, n) alone, so a run's state is its weights, their average, the optimiser and the step:
a run that was stopped continues to the same bits as one that was not.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..config import to_dict
from ..files import lock_folder, remove_unfinished, write_json
from .config import TrainConfig
from .data import BatchSource, load_batches
from .logs import Logs, Meter
from .memory import describe_memory
from .plan import plan
from .ranks import Ranks
from .state import State, check_folder, newest
from .step import EMA, Steps
from .stops import Stopped, catch_signals


class Stage(Protocol):
    """What is trained, on what, and by which loss."""

    config: Any
    """the stage's config, with the loop's settings at `.train`"""
    module: nn.Module
    """all weights that are trained"""
    data: BatchSource
    marks: dict[str, str]
    """what a resumed run must find as it was, beside the config: name -> hash"""

    def loss(self, module: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The batch's mean loss, and figures for the log: a mean (), or a sum and a count (2,).

        A stage with a method `inputs(batch)` gets what that returns, made beforehand by what is not trained: a named
        tuple of tensors on the device, of the same shapes in each batch.
        """

    def export(self, module: nn.Module, path: Path, done: dict[str, int] | None = None) -> None:
        """Write `module` (the averaged weights) as a checkpoint that `minip2p.load` or another stage reads."""

    def preview(self, module: nn.Module, path: Path) -> dict[str, float]:
        """Write what `module` does as an image (`path`, a .png) or a text beside it, and measure it."""


@dataclass(frozen=True)
class Log:
    """The figures of a step. The first log has none: its step is the one from which the run starts."""

    step: int
    figures: dict[str, float]
    messages: tuple[str, ...] = ()


def train(
    stage: Stage, out: Path, *, resume: bool = False, accept_changes: bool = False, ranks: Ranks | None = None
) -> Iterator[Log]:
    """Train for `config.train.steps` steps in all; yields a Log at the start, at each line of the log and preview. All
    ranks call it together.

    Writes to `out`: config.json, log.jsonl (and TensorBoard's events if that is installed), state/ (for `resume`),
    model.safetensors (averaged weights) and samples/. SIGTERM and Ctrl-C end the run after the current step, with a
    state on disk, by raising `Stopped`. Raises ValueError where the loss or a weight is not finite, which is not saved,
    and, unless `accept_changes`, where a run is resumed with other data.
    """
    ranks = ranks or Ranks()
    with own_folder(out, ranks):
        check_folder(out, resume)
        yield from run_steps(stage, out, resume, accept_changes, ranks)


def run_steps(stage: Stage, out: Path, resume: bool, accept_changes: bool, ranks: Ranks) -> Iterator[Log]:
    """`train` in its folder."""
    # networks, their average, the optimiser
    torch.manual_seed(stage.config.train.seed)
    model = stage.module.to(ranks.device).train()
    c, notes = plan(stage, ranks)
    memory = describe_memory(stage, c, ranks) if ranks.first else ""
    gather = ranks.apply_fsdp(model)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    ema, meter = EMA(model, c.ema, c.ema_on_cpu), Meter()
    optimizer = torch.optim.AdamW(weights, lr=0.0, betas=tuple(c.betas), weight_decay=c.weight_decay, fused=True)
    run = State(model=model, ema=ema, optimizer=optimizer, meter=meter, marks=stage.marks, batch_size=c.batch_size)
    first, damaged = run.restore(out, ranks, accept_changes) if resume else (0, [])
    if first > c.steps:
        raise ValueError(f"train.steps = {c.steps}: {out} has {first} steps already; expected at least as many")
    if ranks.first:  # with the size of micro-batches, so that a resumed run adds up in the same order
        settled = replace(stage.config, train=replace(stage.config.train, micro_batch=c.micro_batch))
        write_json(out / "config.json", to_dict(settled))
    steps = Steps(stage, model, optimizer, c, ranks)

    # data
    parts = ranks.rows(c.batch_size, c.micro_batch)
    batches = load_batches(stage.data, range(first, c.steps), parts, c.workers, pin=ranks.device.type == "cuda")

    yield Log(first, {}, tuple(note for note in (*damaged, *notes, *getattr(stage, "notes", ()), memory) if note))
    with Logs(out, first, ranks.first) as logs, catch_signals() as stops:
        for step in range(first + 1, c.steps + 1):
            # step
            with steps.around():
                total = torch.zeros((), device=ranks.device)
                for rows in parts:
                    batch = next(batches)
                    weight = len(rows) * ranks.world / c.batch_size
                    loss, figures = steps.backward(steps.inputs(batch), weight, last=rows is parts[-1])
                    total += loss
                    meter.add({"loss": loss} | figures, len(rows), getattr(batch, "broken", ()))
                norm = gather(nn.utils.clip_grad_norm_(weights, math.inf if c.clip is None else c.clip))
                total, norm = torch.stack([total, norm.to(total)]).tolist()  # waits for the device, once a step
                stopped, diverged = ranks.any(stops.asked, not math.isfinite(total + norm))
                if diverged:
                    values = f"the loss is {total / len(parts):g}, the norm of its gradient {norm:g}"
                    raise ValueError(f"{values} at step {step}; {last_state(out)}")
                steps.update(learning_rate(c, step - 1))
                ema.update()
            last = step == c.steps

            # log
            if step % c.log_every == 0 or last:
                figures, broken = meter.read(ranks)
                figures |= {"grad_norm": norm, "lr": learning_rate(c, step - 1)}
                figures = logs.write(step, c.batch_size, figures, broken)
                yield Log(step, figures, (*(f"left out: {each}" for each in broken), *steps.notes()))

            # preview: before the state, so that the files of a run that goes on from it are complete
            if step % c.preview_every == 0 or last:
                figures, started = {}, time.perf_counter()
                with ema.applied():
                    averaged = gather(model)
                    if ranks.first:
                        with torch.inference_mode():
                            figures = stage.preview(averaged.eval(), out / "samples" / f"{step:06d}.png")
                model.train()
                ranks.barrier()
                logs.since += time.perf_counter() - started  # the speed of training does not count previews
                yield Log(step, logs.write(step, c.batch_size, figures))

            # save: the model first, because resuming from a state takes the frozen networks from it
            if step % c.save_every == 0 or last or stopped:
                wrong = run.not_finite()
                if any(ranks.any(wrong is not None)):
                    raise ValueError(f"{wrong or 'a tensor'} is not finite after step {step}; {last_state(out)}")
                with ema.applied():
                    averaged = gather(model)
                    if ranks.first:
                        done = {"steps": step, "items": step * c.batch_size}
                        stage.export(averaged, out / "model.safetensors", done)
                run.save(out, step, c.keep, ranks)
            if stopped and not last:
                raise Stopped(stops.number, f"stopped after step {step}; --resume {out} continues")


def last_state(out: Path) -> str:
    """What a run that cannot go on is continued from."""
    path = newest(out)
    if path is None:
        return "there is no state yet: start again, e.g. with a lower train.learning_rate"
    return f"the last good state is {path}: --resume {out} continues it, e.g. with a lower train.learning_rate"


def learning_rate(config: TrainConfig, step: int) -> float:
    """The learning rate of a step, counted from 0: a linear warm-up, then constant or half a cosine down to 0."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.decay == "constant":
        return config.learning_rate
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


@contextlib.contextmanager
def own_folder(out: Path, ranks: Ranks) -> Iterator[None]:
    """Make the run's folders, and remove unfinished files of an earlier process. Within, no other run can use them."""
    with contextlib.ExitStack() as stack:
        if ranks.first:
            stack.enter_context(lock_folder(out))
            for folder in (out / "state", out / "samples"):
                folder.mkdir(exist_ok=True)
                remove_unfinished(folder)
        ranks.barrier()
        yield
