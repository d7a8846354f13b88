"""What sharing costs: pairs generated with the source's self-attention shared, against the same pairs without, in turn.

    python -m tests.benchmarks.pair [--rounds 8] [--threads 2] [--width 320] [--pairs 1]

The UNet is Stable Diffusion 1.5's (or of another base width), all weights random, at 32x32 latents: two steps a round,
4 rows a pair. Prints the seconds of both, the ratio of the medians, shared over not, and the ratio of the peaks of
memory, each measured in a process of its own. Exits with 1 where one of the ratios is above 1.05.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time

import torch

from minip2p.config import UNetConfig
from minip2p.control import Run, Share
from minip2p.diffusion import BetaSchedule, Denoiser, Noise, euler_ancestral, guided, two_way
from minip2p.loading import prepare
from minip2p.models.unet import UNet


def runs(options: argparse.Namespace) -> dict[str, callable]:
    """share -> two steps of the sampler on the same batch."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    widths = tuple(options.width * factor for factor in (1, 2, 4, 4))
    unet, schedule, b = prepare(UNet(UNetConfig(widths=widths))), BetaSchedule(), 2 * options.pairs
    text, null, sigmas = torch.randn(b, 77, 768), torch.randn(1, 77, 768), schedule.sigmas_for(100)[:3]
    run = Run(
        sigmas=tuple(sigmas.tolist()), size=(32, 32), prompts=("",) * b, sources=tuple(i - i % 2 for i in range(b))
    )

    @torch.inference_mode()
    def sample(share: float) -> torch.Tensor:
        noise = Noise([i // 2 for i in range(b)], (4, 32, 32))
        control = [Share(share).over(run)] if share else []
        field = guided(Denoiser(unet, schedule), two_way(7.5, text, null), control=control)
        return [step.z for step in euler_ancestral(field, noise.start(sigmas[0]), sigmas, noise=noise)][-1]

    return {"plain": lambda: sample(0.0), "shared": lambda: sample(1.0)}


def peak(name: str) -> int:
    """The peak memory in bytes of a process that makes one such run."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.pair", *sys.argv[1:], "--peak", name],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("rounds", 8), ("threads", 2), ("width", 320), ("pairs", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--peak", choices=["plain", "shared"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    both = runs(options)
    if options.peak:
        both[options.peak]()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return 0
    plain, shared = both["plain"](), both["shared"]()
    assert torch.equal(plain[::2], shared[::2]) and not torch.equal(plain[1::2], shared[1::2])
    seconds = {name: [] for name in both}
    for i in range(options.rounds):
        for name in sorted(both, reverse=i % 2 == 0):  # neither always comes first
            start = time.perf_counter()
            both[name]()
            seconds[name].append(time.perf_counter() - start)
    for name, values in seconds.items():
        print(f"{name:7} median {statistics.median(values):.3f} s, fastest {min(values):.3f} s")
    del both
    ratio = statistics.median(seconds["shared"]) / statistics.median(seconds["plain"])
    memory = peak("shared") / peak("plain")
    print(f"time, shared over plain: {ratio:.3f}; peak memory: {memory:.3f}")
    return 0 if max(ratio, memory) <= 1.05 else 1


if __name__ == "__main__":
    sys.exit(main())
