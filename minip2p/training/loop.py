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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from ..checkpoints.mapped import replace_file, save_torch
from ..config import to_dict
from ..loading import computes_in_bf16
from .config import TrainConfig
from .ema import EMA


SHOWN = ("loss", "pictures_per_s", "psnr", "right", "accuracy")
"""the figures of a log that the progress bar has room for"""


class Stage(Protocol):
    """What is trained. `config` is the stage's whole config, with the loop's part at `.train`."""

    config: Any
    module: nn.Module
    """all parameters that are trained"""

    def batch(self, step: int) -> Any:
        """The batch of a step: a function of the step and the config's seed alone."""

    def loss(self, module: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the batch, and figures for the log."""

    def export(self, module: nn.Module, path: Path) -> None:
        """Write `module` (the averaged weights) as a checkpoint that `minip2p.load` or the next stage reads."""

    def preview(self, module: nn.Module, path: Path) -> dict[str, float]:
        """Draw what `module` does, as a PNG, and measure it."""


@dataclass(frozen=True)
class Log:
    """What a step reports, every `log_every` steps."""

    step: int
    figures: dict[str, float]


def rate(config: TrainConfig, step: int) -> float:
    """The learning rate of a step, counted from 0: a linear rise, then constant or half a cosine down to 0."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.decay == "constant":
        return config.learning_rate
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def run(stage: Stage, out: Path, *, resume: bool = False, device: torch.device | str = "cpu") -> Iterator[Log]:
    """Train to `config.train.steps`, yielding a Log now and then.

    Leaves in `out`: config.json, log.jsonl, state.pt (all that `resume` needs), model.safetensors (the average) and
    previews.
    """
    config: TrainConfig = stage.config.train
    out.mkdir(parents=True, exist_ok=True)
    replace_file(out / "config.json", lambda p: p.write_text(json.dumps(to_dict(stage.config), indent=1)))

    model = stage.module.to(device).train()
    torch.manual_seed(config.seed)
    ema = EMA(model, config.ema)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=0.0, betas=tuple(config.betas), weight_decay=config.weight_decay, fused=True
    )
    if config.compile:
        for network in model.children():
            network.compile()
    step = _restore(out / "state.pt", model, ema, optimizer) if resume else 0
    autocast = _autocast(config.precision, torch.device(device))

    _forget(out / "log.jsonl", step)
    with open(out / "log.jsonl", "a") as log, _small_attention(torch.device(device)):
        since, started = step, time.perf_counter()
        while step < config.steps:
            for group in optimizer.param_groups:
                group["lr"] = rate(config, step)
            batch = stage.batch(step)
            with autocast():
                loss, figures = stage.loss(model, batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(trained, config.clip)
            optimizer.step()
            ema.update(model)
            step += 1

            if step % config.log_every == 0 or step == config.steps:
                loss = float(loss.detach())
                if not math.isfinite(loss):
                    raise FloatingPointError(f"the loss is {loss} at step {step}; the last state is in {out}")
                seconds = time.perf_counter() - started
                line = {
                    "step": step, "pictures": step * config.batch_size, "loss": loss, "grad_norm": float(norm),
                    "lr": rate(config, step - 1), "pictures_per_s": (step - since) * config.batch_size / seconds,
                } | {name: float(value) for name, value in figures.items()}  # fmt: skip
                print(json.dumps(line), file=log, flush=True)
                since, started = step, time.perf_counter()
                yield Log(step, line)
            if step % config.save_every == 0 or step == config.steps:
                state = {
                    "step": step, "model": model.state_dict(), "ema": ema.module.state_dict(),
                    "updates": ema.updates, "optimizer": optimizer.state_dict(),
                }  # fmt: skip
                stage.export(ema.module, out / "model.safetensors")  # first: a state without its model cannot go on
                save_torch(state, out / "state.pt")
            if step % config.preview_every == 0 or step == config.steps:
                with torch.inference_mode():
                    figures = stage.preview(ema.module, out / f"preview-{step:06d}.png")
                print(json.dumps({"step": step, "pictures": step * config.batch_size} | figures), file=log, flush=True)
                yield Log(step, figures)


def progress(logs: Iterator[Log], steps: int, name: str) -> None:
    """Run to the end, with a bar on stderr."""
    shown: dict[str, str] = {}
    with tqdm(total=steps, desc=name, unit="step") as bar:
        for log in logs:
            bar.update(log.step - bar.n)
            shown |= {name: f"{log.figures[name]:.4g}" for name in SHOWN if name in log.figures}
            bar.set_postfix(shown)


def _forget(path: Path, step: int) -> None:
    """Drop the log's lines of steps after `step`, which are made again."""
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    replace_file(path, lambda p: p.write_text("".join(f"{line}\n" for line in kept)))


def _restore(path: Path, model: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer) -> int:
    if not path.exists():
        raise ValueError(
            f"{path.parent}: no state.pt there to resume from; to start from weights alone, use --init-from"
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    ema.module.load_state_dict(state["ema"])
    ema.updates = state["updates"]
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


def _autocast(precision: str, device: torch.device):
    on = precision != "fp32" if device.type == "cuda" else precision == "bf16" and computes_in_bf16()
    return lambda: torch.autocast(device.type, torch.bfloat16) if on else contextlib.nullcontext()


def _small_attention(device: torch.device):
    """On a CPU, small attentions run backwards faster as plain matrix products than in the fused kernel."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()
