"""Training step by step, so that it can be timed: as `train.py` does it, and of a UNet alone; sets to train on."""

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from minip2p.cli.arguments import parse
from minip2p.cli.train import Options, config_of
from minip2p.loading import place
from minip2p.tinyworld.scenes import render, sample_edit
from minip2p.training.stages import start
from minip2p.training.step import EMA

NEVER = 1_000_000
ESTIMATE = re.compile(r"memory: about ([\d.]+) GiB")


class Training:
    """The run that `train.py WORDS` starts, without its end: no preview, no state, no weights are written."""

    def __init__(self, words: Sequence[str], changes: Sequence[str] = (), log_every: int = 1):
        """changes: words for --set."""
        every = [f"train.{name}_every={NEVER}" for name in ("save", "preview")]
        given = [*words, "--steps", str(NEVER), "--set", f"train.log_every={log_every}", *every, *changes]
        options = parse(Options, given, "train.py")
        out = Path(options.out)
        spec, config = config_of(options, out)
        device, _ = place(options.device, "float32")
        self.items = log_every * config.train.batch_size
        """trained on in a step of this object"""
        self.logs = start(spec, config, out, init_from=options.init_from, device=device)
        self.messages = next(self.logs).messages
        self.figures: dict[str, float] = {}

    def step(self) -> None:
        """`log_every` steps of the optimiser."""
        self.figures = next(self.logs).figures

    @property
    def estimate(self) -> float:
        """GiB that the run said it would take."""
        return float(next(found[1] for line in self.messages if (found := ESTIMATE.search(line))))

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *raised) -> None:
        self.logs.close()


def write_pairs(folder: Path, n: int, side: int) -> Path:
    """n pairs of the tiny world in the authors' layout, as JPEG files of this side."""
    rng = np.random.default_rng(0)
    for i in range(n):
        edit, place = sample_edit(rng), folder / f"{i:07d}"
        place.mkdir(parents=True)
        texts = {"input": edit.source.caption, "edit": edit.instruction, "output": edit.target.caption}
        (place / "prompt.json").write_text(json.dumps(texts))
        for number, scene in enumerate((edit.source, edit.target)):
            render(scene, side).save(place / f"1_{number}.jpg", quality=95)
    return folder


def stepper(unet: nn.Module, call: Callable[..., Tensor], ours: bool, batch: tuple[Tensor, ...]) -> Callable[[], float]:
    """A step on the mean squared error: () -> loss. ours: the optimiser and the average of our loop."""
    z, t, text, target = batch
    weights = list(unet.train().parameters())
    optimizer = torch.optim.AdamW(weights, lr=1e-4, weight_decay=0.01, **({"fused": True} if ours else {}))
    if ours:
        average = EMA(unet, 0.9999).update
    else:
        from diffusers.training_utils import EMAModel

        average = partial(EMAModel(weights, decay=0.9999).step, weights)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = (call(z, t, text) - target).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        average()
        return loss.item()

    return step
