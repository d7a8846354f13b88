"""Training steps of the tiny editor on images, encoded in each step, against the same pairs precomputed.

    python -m tests.benchmarks.precomputed [--rounds 8] [--batch 64] [--pairs 96] [--side 64] [--threads 2]

The pairs are the tiny world's, PNG files of `side` pixels. A step is all that the loop does between two logs: batch,
loss, gradient, clipping, AdamW and the average. Prints the images per second of both and the ratio of the medians,
precomputed to images. Exits with 1 if it is below 1.7.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from minip2p.data.edits import open_edits
from minip2p.datagen.precompute import Settings, precompute
from minip2p.tinyworld.scenes import render, sample_edit
from minip2p.tinyworld.training.presets import EDITOR
from minip2p.tinyworld.training.vocab import tokenizer_for
from minip2p.training.build import build_pipeline
from minip2p.training.diffusion import DiffusionStage
from minip2p.training.ema import EMA
from minip2p.training.pairs import pairs_stage

from ..conftest import write_pairs

BOUND = 1.7


def stepper(stage: DiffusionStage) -> Callable[[int], float]:
    """A training step as in `training.loop.train`: number -> loss."""
    c, model = stage.config.train, stage.module.train()
    trained, ema = list(model.parameters()), EMA(model, c.ema)
    optimizer = torch.optim.AdamW(trained, lr=1e-5, betas=c.betas, weight_decay=c.weight_decay, fused=True)

    def step(number: int) -> float:
        optimizer.zero_grad(set_to_none=True)
        loss, _ = stage.loss(model, stage.data.batch(number))
        loss.backward()
        nn.utils.clip_grad_norm_(trained, c.clip)
        optimizer.step()
        ema.update()
        return float(loss.detach())

    return step


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("rounds", 8), ("batch", 64), ("pairs", 96), ("side", 64), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    preset = EDITOR
    train = replace(preset.train, batch_size=options.batch)
    with tempfile.TemporaryDirectory() as folder:
        images, latents = Path(folder) / "images", Path(folder) / "latents"
        rng = np.random.default_rng(0)
        write_pairs(images, [sample_edit(rng) for _ in range(options.pairs)], lambda scene: render(scene, options.side))
        pipe = build_pipeline(preset, [], learn_tokenizer=tokenizer_for)
        settings = Settings(size=preset.size, resize=preset.resize, crops=1, flips=preset.flip > 0)
        for _ in precompute(lambda: pipe.vae, open_edits(images), settings, latents, data="benchmark"):
            pass
        steps = {}
        for name, data in (("images", images), ("precomputed", latents)):
            config = replace(preset, train=train, data=(str(data),), held_out=0)
            steps[name] = stepper(pairs_stage(config, build_pipeline(config, [], learn_tokenizer=tokenizer_for)))
        rates = {name: [] for name in steps}
        for step in steps.values():
            step(0)  # warm-up
        for i in range(1, options.rounds + 1):
            for name in sorted(steps, reverse=i % 2 == 0):  # neither is always first
                start = time.perf_counter()
                steps[name](i)
                rates[name].append(options.batch / (time.perf_counter() - start))
    for name, values in rates.items():
        print(f"{name:11} median {statistics.median(values):.1f} images/s, fastest {max(values):.1f}")
    ratio = statistics.median(rates["precomputed"]) / statistics.median(rates["images"])
    fastest = max(rates["precomputed"]) / max(rates["images"])
    print(f"ratio {ratio:.2f} (of the fastest {fastest:.2f}); expected at least {BOUND}")
    return 0 if ratio >= BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
