"""A training step of our UNet against the same step of diffusers' UNet: forward, backward, clip, AdamW, EMA.

    python -m tests.benchmarks.train_step [--rounds 8] [--threads 2] [--only tiny|half]

Two sizes: the tiny preset's editor (8x8 latents, 16 images) and Stable Diffusion 1.5 at half its width with 8 inputs
(32x32 latents, 2 images). Both start from the same random weights and get the same tensors. Ours is the step of
`training.loop.train`. Theirs is measured twice: "diffusers", as in that library's training scripts (its memory layout,
PyTorch's default AdamW, its EMAModel), and "our step, their UNet", which isolates the network. Prints the seconds and
the ratios of the medians. Exits with 1 if ours takes more than 0.95 of the time of "diffusers", or if losses of a step
differ by a thousandth.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from diffusers import UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from minip2p import checkpoints
from minip2p.checkpoints.tables import links, pull, unet_rows
from minip2p.config import PRESETS, UNetConfig
from minip2p.models.unet import UNet
from minip2p.training.ema import EMA

BOUND = 0.95
SIZES = {
    "tiny": (PRESETS["tiny"].unet, (16, 8, 8), 24),
    "half": (replace(PRESETS["pix2pix"].unet, widths=(160, 320, 640, 640)), (2, 32, 32), 77),
}
"""the UNet, (images, y, x) of a batch's latents, tokens of a text"""


def diffusers_unet(c: UNetConfig) -> UNet2DConditionModel:
    full = [word == "full" for word in c.attention]
    return UNet2DConditionModel(
        in_channels=c.in_channels,
        out_channels=c.out_channels,
        block_out_channels=c.widths,
        layers_per_block=c.blocks,
        down_block_types=["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in full],
        up_block_types=["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(full)],
        attention_head_dim=c.heads,
        cross_attention_dim=c.text_width,
        norm_num_groups=c.norm_groups,
    )


def our_unet(theirs: UNet2DConditionModel, c: UNetConfig) -> UNet:
    with torch.device("meta"):
        ours = UNet(c)
    tensors, names, _ = pull({name: x.clone() for name, x in theirs.state_dict().items()}, links(unet_rows(c), 2))
    checkpoints.assign(ours, tensors, source="diffusers' UNet", names=names)
    return ours.requires_grad_(True).to(memory_format=torch.channels_last)


def stepper(unet: nn.Module, call: Callable[..., Tensor], ours: bool, batch: tuple[Tensor, ...]) -> Callable[[], float]:
    """A step on the mean squared error: () -> loss. ours: the AdamW and the average of our loop."""
    z, t, text, wanted = batch
    weights = list(unet.train().parameters())
    optimizer = torch.optim.AdamW(weights, lr=1e-4, weight_decay=0.01, **({"fused": True} if ours else {}))
    if ours:
        average = EMA(unet, 0.9999).update
    else:
        ema = EMAModel(weights, decay=0.9999)

        def average():
            ema.step(weights)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = (call(unet, z, t, text) - wanted).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        average()
        return loss.item()

    return step


def compare(name: str, rounds: int) -> bool:
    config, (b, y, x), tokens = SIZES[name]
    torch.manual_seed(0)
    theirs = diffusers_unet(config)
    again = diffusers_unet(config)
    again.load_state_dict(theirs.state_dict())
    ours = our_unet(theirs, config)
    batch = (
        torch.randn(b, config.in_channels, y, x),
        torch.rand(b) * 999,
        torch.randn(b, tokens, config.text_width),
        torch.randn(b, config.out_channels, y, x),
    )

    def call(unet, z, t, text):
        return unet(z, t, encoder_hidden_states=text, return_dict=False)[0]

    steps = {
        "diffusers": stepper(theirs, call, False, batch),
        "minip2p": stepper(ours, lambda unet, z, t, text: unet(z, t, text), True, batch),
        "our step, their UNet": stepper(again.to(memory_format=torch.channels_last), call, True, batch),
    }
    losses = {each: [step()] for each, step in steps.items()}  # also a warm-up
    seconds = {each: [] for each in steps}
    for i in range(rounds):
        for each in (list(steps), list(reversed(steps)))[i % 2]:  # none is always first
            start = time.perf_counter()
            losses[each].append(steps[each]())
            seconds[each].append(time.perf_counter() - start)
    print(f"{name}: {sum(p.numel() for p in ours.parameters()) / 1e6:.1f} M weights, latents {b} x {y} x {x}")
    for each, values in seconds.items():
        print(f"  {each:20} median {statistics.median(values):.4f} s, fastest {min(values):.4f} s")
    mine = seconds["minip2p"]
    ratios = {
        each: (statistics.median(mine) / statistics.median(values), min(mine) / min(values))
        for each, values in seconds.items()
        if each != "minip2p"
    }
    for each, (ratio, fastest) in ratios.items():
        print(f"  minip2p over {each}: {ratio:.3f} (of the fastest {fastest:.3f})")
    difference = max(abs(a / b - 1) for a, b in zip(losses["minip2p"], losses["diffusers"], strict=True))
    print(f"  largest relative difference of the losses {difference:.1e}")
    return ratios["diffusers"][0] <= BOUND and difference < 1e-3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=SIZES)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return 0 if all([compare(name, options.rounds) for name in SIZES if options.only in (None, name)]) else 1


if __name__ == "__main__":
    sys.exit(main())
