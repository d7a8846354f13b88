"""Our UNet against diffusers', one forward each in turn: Stable Diffusion 1.5 width, 8 inputs, 32x32 latents, 3 rows.

    python -m tests.benchmarks.unet_forward [--rounds 8] [--threads 2]

Both have the same random weights, run in inference mode and in channels-last memory; ours as `minip2p.load` prepares it
(fused upsampling). Prints the seconds of both and the ratio of the medians, ours over theirs. Needs 10 GB of memory.
Exits with 1 where the ratio is above 1 or the outputs differ.
"""

import argparse
import statistics
import sys
import time

import torch
from diffusers import UNet2DConditionModel

from minip2p import checkpoints
from minip2p.checkpoints.tables import links, pull, unet_rows
from minip2p.config import UNetConfig
from minip2p.loading import prepare
from minip2p.models.unet import UNet


def networks() -> tuple[torch.nn.Module, torch.nn.Module]:
    """(theirs, ours), with the same weights."""
    config = UNetConfig(in_channels=8)
    theirs = UNet2DConditionModel(in_channels=8, cross_attention_dim=768).eval().requires_grad_(False)  # else as it is
    with torch.device("meta"):
        ours = UNet(config)
    tensors, names, _ = pull(theirs.state_dict(), links(unet_rows(config), 2))
    checkpoints.assign(ours, tensors, source="diffusers' UNet", names=names)
    return theirs.to(memory_format=torch.channels_last), prepare(ours)


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    theirs, ours = networks()
    z, t, text = torch.randn(3, 8, 32, 32), torch.full((3,), 500.5), torch.randn(3, 77, 768)
    z = z.to(memory_format=torch.channels_last)
    runs = {
        "diffusers": lambda: theirs(z, t, encoder_hidden_states=text, return_dict=False)[0],
        "minip2p": lambda: ours(z, t, text),
    }
    a, b = (run() for run in runs.values())  # also warms both up
    error = float((a - b).norm() / a.norm())
    seconds = {name: [] for name in runs}
    for i in range(options.rounds):
        for name in sorted(runs, reverse=i % 2 == 0):  # neither always comes first
            start = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - start)
    for name, values in seconds.items():
        print(f"{name:10} median {statistics.median(values):.3f} s, fastest {min(values):.3f} s")
    ratio = statistics.median(seconds["minip2p"]) / statistics.median(seconds["diffusers"])
    fastest = min(seconds["minip2p"]) / min(seconds["diffusers"])
    print(f"ratio {ratio:.3f} (of the fastest {fastest:.3f}); relative difference of the outputs {error:.1e}")
    return 0 if ratio <= 1 and error < 2e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
