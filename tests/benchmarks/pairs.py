"""Pairs per second of `datagen.pairs.make`, and how much of the time the UNet takes.

    python -m tests.benchmarks.pairs [--prompts 2] [--samples 8] [--steps 50] [--batch-pairs 8] [--threads 2]
        [--weights PATH] [--clip PATH] [--device cpu]

The shipped text-to-image model and CLIP unless others are given; the captions are the tiny world's. Prints pairs per
second and a table of the wall time by part. The first unit is not measured. Exits with 1 if the UNet has less than 85 %
of the time.
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace

import torch
from torch import nn

import minip2p
from minip2p import units
from minip2p.datagen import pairs
from minip2p.evaluation.metrics import Thresholds
from minip2p.tinyworld.evaluation.pairs import held_out_pairs

BOUND = 0.85


class Timed(nn.Module):
    """A network, and the seconds spent in it."""

    def __init__(self, network: nn.Module, name: str, seconds: dict[str, float]):
        super().__init__()
        self.network, self.name, self.seconds = network, name, seconds

    def forward(self, *inputs, **more):
        return timed(self.network, self.name, self.seconds)(*inputs, **more)

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)


def timed(function, name: str, seconds: dict[str, float]):
    def called(*inputs, **more):
        wait()
        began = time.perf_counter()
        result = function(*inputs, **more)
        wait()
        seconds[name] += time.perf_counter() - began
        return result

    return called


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("prompts", 2), ("samples", 8), ("steps", 50), ("batch-pairs", 8), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name in ("weights", "clip"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    seconds: dict[str, float] = defaultdict(float)
    pipe = minip2p.load(options.weights or minip2p.shipped("text2image"), device=options.device)
    clip = minip2p.load_clip(options.clip, device=pipe.device)
    pipe = replace(pipe, unet=Timed(pipe.unet, "UNet", seconds))
    pipe.vae.decode = timed(pipe.vae.decode, "VAE", seconds)
    clip.encode_images = timed(clip.encode_images, "CLIP", seconds)
    clip.encode_texts = timed(clip.encode_texts, "CLIP", seconds)
    pipe.text_encoder.forward = timed(pipe.text_encoder.forward, "text encoder", seconds)
    units.write_content = timed(units.write_content, "files", seconds)
    settings = pairs.Settings(
        samples=options.samples,
        steps=options.steps,
        batch_pairs=options.batch_pairs,
        threads=options.threads,
        thresholds=Thresholds(image=-1, caption=-1, direction=-1),
    )
    _, captions = held_out_pairs(options.prompts + 1)
    prompts = [{"input": a, "edit": "-", "output": b, "id": i} for i, (a, b) in enumerate(captions)]
    with tempfile.TemporaryDirectory() as folder:
        making = pairs.make(lambda: (pipe, clip), prompts, settings, folder)
        next(making.units)
        seconds.clear()
        began = time.perf_counter()
        made = sum(unit.counts["pairs"] for unit in making)
        total = time.perf_counter() - began
    seconds["other: sampler, guidance, noise, JPEG"] = total - sum(seconds.values())
    print(
        f"{made} pairs of {options.steps} steps, {options.batch_pairs} together, {options.threads} threads: "
        f"{total:.1f} s, {made / total:.3g} pairs/s\n\n| part | seconds | of all |\n|---|---|---|"
    )
    for name, value in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"| {name} | {value:.2f} | {value / total:.1%} |")
    return 0 if seconds["UNet"] >= BOUND * total else 1


if __name__ == "__main__":
    sys.exit(main())
